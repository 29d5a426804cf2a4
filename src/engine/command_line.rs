//! A command line of `run` or `create`, split into mcrun's options and the engine's.
//!
//! The rules are the engines' own (pflag): options end at the first argument that is none, which is
//! the image, or at `--`. mcrun's flags are taken out from among them; everything else stays as it
//! is and in its order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::engine::option_table::OptionTable;

/// The arguments after `run` or `create`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineCommandLine {
    /// `--engine`; of several the last.
    pub engine: Option<OsString>,
    /// `--mcast`, in order.
    pub mcast: Vec<OsString>,
    /// The engine's options.
    pub options: Vec<OsString>,
    /// From the image on (with a `--` before it, if there is one).
    pub rest: Vec<OsString>,
    /// Values of `--network`.
    pub networks: Vec<OsString>,
    /// Value of `--runtime`.
    pub runtime: Option<OsString>,
    /// Value of `--restart`.
    pub restart: Option<OsString>,
    /// A UDP port is published, and not on loopback alone.
    pub publishes_udp: bool,
    /// `--rootfs` or `--bundle` is among the options.
    pub direct: bool,
    /// `--help` is.
    pub help: bool,
    /// The first unknown option; it is taken to have no value.
    pub unknown: Option<String>,
}

/// What is wrong with a command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// One of mcrun's flags stands at the end.
    #[error("--{0} needs a value")]
    NoValue(&'static str),
}

/// mcrun's own flags among an engine's options.
const OWN: [&str; 2] = ["engine", "mcast"];

impl EngineCommandLine {
    /// Takes a command line apart.
    ///
    /// # Errors
    /// Only about mcrun's own flags: what is wrong with the others is the engine's to say.
    pub fn parse(arguments: &[OsString], known: &OptionTable) -> Result<Self, CommandLineError> {
        let mut line = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let bytes = argument.as_bytes();
            if bytes == b"--" || bytes == b"-" || !bytes.starts_with(b"-") {
                line.rest.push(argument.clone());
                break;
            }
            let Some(long) = bytes.strip_prefix(b"--") else {
                line.options.push(argument.clone());
                if let Some(letter) = line.letters(&bytes[1..], known)
                    && let Some(value) = arguments.next()
                {
                    line.options.push(value.clone());
                    line.remember_letter(letter, value);
                }
                continue;
            };
            let (name, value) = match long.iter().position(|b| *b == b'=') {
                Some(at) => (&long[..at], Some(OsStr::from_bytes(&long[at + 1..]).to_owned())),
                None => (long, None),
            };
            let name = String::from_utf8_lossy(name);
            if let Some(own) = OWN.into_iter().find(|own| *own == name) {
                let value = value.or_else(|| arguments.next().cloned());
                let value = value.ok_or(CommandLineError::NoValue(own))?;
                match own {
                    "engine" => line.engine = Some(value),
                    _ => line.mcast.push(value),
                }
                continue;
            }
            line.options.push(argument.clone());
            let takes_value = line.long(&name, known);
            let value = match value {
                None if takes_value => {
                    let next = arguments.next().cloned();
                    line.options.extend(next.clone());
                    next
                }
                value => value,
            };
            if let Some(value) = value {
                line.remember(&name, value);
            }
        }
        line.rest.extend(arguments.cloned());
        Ok(line)
    }

    /// Whether a long option takes the next argument.
    fn long(&mut self, name: &str, known: &OptionTable) -> bool {
        match name {
            "rootfs" | "bundle" => self.direct = true,
            "help" => self.help = true,
            _ => {}
        }
        known.long_takes_value(name).unwrap_or_else(|| {
            self.unknown.get_or_insert_with(|| format!("--{name}"));
            false
        })
    }

    /// The letter of a cluster that takes the next argument: its last one, if that takes a value. What
    /// stands behind a letter that takes one is that value.
    fn letters(&mut self, letters: &[u8], known: &OptionTable) -> Option<u8> {
        for (position, letter) in letters.iter().enumerate() {
            let rest = &letters[position + 1..];
            match known.short_takes_value(*letter) {
                Some(true) if rest.is_empty() => return Some(*letter),
                Some(true) => {
                    let value = rest.strip_prefix(b"=").unwrap_or(rest);
                    self.remember_letter(*letter, OsStr::from_bytes(value));
                    return None;
                }
                Some(false) => {}
                None => {
                    self.unknown.get_or_insert_with(|| format!("-{}", char::from(*letter)));
                }
            }
            // A switch with a value, -t=false.
            if rest.starts_with(b"=") {
                return None;
            }
        }
        None
    }

    fn remember_letter(&mut self, letter: u8, value: &OsStr) {
        if letter == b'p' {
            self.publish(value);
        }
    }

    fn publish(&mut self, port: &OsStr) {
        let loopback = [&b"127."[..], b"[::1]:"];
        let is_loopback = loopback.iter().any(|start| port.as_bytes().starts_with(start));
        self.publishes_udp |= port.as_bytes().ends_with(b"/udp") && !is_loopback;
    }

    /// Remembers the values that matter to an attachment.
    fn remember(&mut self, name: &str, value: OsString) {
        match name {
            "network" | "net" => self.networks.push(value),
            "runtime" => self.runtime = Some(value),
            "restart" => self.restart = Some(value),
            "publish" => self.publish(&value),
            _ => {}
        }
    }

    /// A network that leaves the container without a namespace of its own, as it was given: `host`,
    /// or another container's.
    pub fn shared_network(&self) -> Option<&OsStr> {
        let shared = |value: &&OsString| {
            let bytes = value.as_bytes();
            bytes == b"host" || bytes.starts_with(b"container:")
        };
        self.networks.iter().find(shared).map(OsString::as_os_str)
    }

    /// The attachments as annotations and variables hold them.
    pub fn attachments(&self) -> OsString {
        let parts: Vec<&[u8]> = self.mcast.iter().map(|part| part.as_bytes()).collect();
        OsString::from_vec(parts.join(&b';'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn line(text: &str) -> EngineCommandLine {
        EngineCommandLine::parse(&words(text), &OptionTable::default()).unwrap()
    }

    #[test]
    fn own_flags_are_taken_from_among_the_engines_options() {
        let line = line(
            "-it --rm -v a:b --mcast parent=eth1 --engine podman -e X=1 --mcast=parent=eth2 \
             --name=cam alpine sh -c --mcast",
        );
        assert_eq!(line.options, words("-it --rm -v a:b -e X=1 --name=cam"));
        assert_eq!(line.rest, words("alpine sh -c --mcast"));
        assert_eq!(line.mcast, words("parent=eth1 parent=eth2"));
        assert_eq!(line.engine, Some("podman".into()));
        assert_eq!(line.attachments(), "parent=eth1;parent=eth2");
        assert_eq!(line.unknown, None);
    }

    #[test]
    fn the_value_of_another_option_is_no_flag_and_no_image() {
        for (text, options, rest) in [
            ("-e --mcast image", "-e --mcast", "image"),
            ("-ite --engine image x", "-ite --engine", "image x"),
            ("-itv/a:/b image -v", "-itv/a:/b", "image -v"),
            ("-e=--mcast image", "-e=--mcast", "image"),
            ("--env --rootfs image", "--env --rootfs", "image"),
            ("--rm=false --tty image --rm", "--rm=false --tty", "image --rm"),
            ("-t=false image", "-t=false", "image"),
            ("--entrypoint sh image -c", "--entrypoint sh", "image -c"),
            ("--rm -- image --mcast x", "--rm", "-- image --mcast x"),
            ("--rm", "--rm", ""),
            ("--name", "--name", ""),
        ] {
            let line = line(text);
            assert_eq!((line.options, line.rest), (words(options), words(rest)), "{text}");
            assert_eq!((line.mcast, line.engine, line.direct), (Vec::new(), None, false), "{text}");
        }
    }

    #[test]
    fn arguments_that_are_no_text_pass_unchanged() {
        let odd = OsString::from_vec(b"-v/\xff:/x".to_vec());
        let arguments = [odd.clone(), "image".into(), OsString::from_vec(vec![0xfe])];
        let line = EngineCommandLine::parse(&arguments, &OptionTable::default()).unwrap();
        assert_eq!(line.options, [odd]);
        assert_eq!(line.rest, arguments[1..]);
    }

    #[test]
    fn what_decides_about_the_attachment_is_noted() {
        let host = line("--net=host --mcast parent=eth1 image");
        assert_eq!(host.shared_network(), Some(OsStr::new("host")));
        let shared = line("--network bridge --network container:x image");
        assert_eq!(shared.shared_network(), Some(OsStr::new("container:x")));
        assert_eq!(line("--network none image host").shared_network(), None);
        assert_eq!(line("--runtime kata --restart=always i").runtime, Some("kata".into()));
        assert!(line("-d --name x --rootfs /x true").direct);
        assert!(line("--bundle=/x").direct);
        assert!(!line("image --rootfs /x").direct);
        assert!(line("-i --help").help);
    }

    #[test]
    fn udp_ports_that_are_published_beyond_loopback_are_noted() {
        for text in [
            "-p 8080:80/udp image",
            "-dp 8080:80/udp image",
            "-p8080:80/udp image",
            "--publish=10.0.0.1:8080:80/udp image",
            "--publish 8080:80/udp image",
            "-p 127.0.0.1:1:1/udp -p 2:2/udp image",
        ] {
            assert!(line(text).publishes_udp, "{text}");
        }
        for text in [
            "image -p 8080:80/udp",
            "-p 8080:80 image",
            "-p 8080:80/tcp image",
            "-p 127.0.0.1:8080:80/udp image",
            "--publish [::1]:8080:80/udp image",
            "-P image",
            "-e -p image",
            "-ep image",
        ] {
            assert!(!line(text).publishes_udp, "{text}");
        }
    }

    #[test]
    fn an_unknown_option_is_told_and_help_makes_it_known() {
        let arguments = words("--frob x image");
        let first = EngineCommandLine::parse(&arguments, &OptionTable::default()).unwrap();
        assert_eq!((first.unknown.as_deref(), first.rest), (Some("--frob"), words("x image")));
        let help = crate::engine::option_table::HelpOptions::parse("      --frob string   Frobs\n");
        let second = EngineCommandLine::parse(&arguments, &OptionTable::with_help(help)).unwrap();
        assert_eq!((second.unknown, second.rest), (None, words("image")));
    }

    #[test]
    fn a_flag_without_its_value_is_named() {
        let error =
            EngineCommandLine::parse(&words("--rm --mcast"), &OptionTable::default()).unwrap_err();
        assert_eq!(error.to_string(), "--mcast needs a value");
    }
}
