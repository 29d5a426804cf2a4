//! The reference of the attachment keys, from the table that the parser uses.

use mcrun::attachment::{KEYS, Key};

/// Begins each generated file, in that file's comment syntax.
const NOTE: &str = "written by `make man` from src/attachment/keys.rs";

/// The table of docs/reference/attachment-keys.md.
pub fn markdown() -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let mut page = format!(
        "# Attachment keys\n\n<!-- {NOTE} -->\n\n\
         An attachment is `KEY=VALUE[,KEY=VALUE...]`. The option `--mcast`, the annotation\n\
         `io.mcrun.mcast` and the variable `MCRUN_MCAST` take it alike; the annotation and the \
         variable\nhold several attachments with `;` between them. The same table is in \
         mcrun-attachment(7).\n\n\
         | key | value | default | drivers | meaning |\n|---|---|---|---|---|\n"
    );
    for key in KEYS {
        let repeatable = if key.repeatable { ", repeatable" } else { "" };
        page += &format!(
            "| `{}` | `{}`{repeatable} | {} | {} | {} |\n",
            key.name,
            cell(key.value),
            cell(key.default),
            key.drivers.names(),
            cell(&meaning(key)),
        );
    }
    page
}

/// mcrun-attachment(7), in the language of mdoc(7).
pub fn manual_page() -> String {
    let mut page = format!(
        r#".\" {NOTE}
.Dd November 28, 2026
.Dt MCRUN-ATTACHMENT 7
.Os mcrun {version}
.Sh NAME
.Nm mcrun-attachment
.Nd what a container asks for on a multicast LAN
.Sh SYNOPSIS
.Ar KEY Ns = Ns Ar VALUE Ns Op , Ns Ar KEY Ns = Ns Ar VALUE Ns ...
.Sh DESCRIPTION
An attachment gives a container its place on one LAN.
The option
.Fl -mcast
of
.Xr mcrun-run 1 ,
.Xr mcrun-create 1
and
.Xr mcrun-attach 1
takes one and may be repeated.
The annotation
.Dq io.mcrun.mcast
and the environment variable
.Ev MCRUN_MCAST
of a container take several, with semicolons between them.
A container can have {attachments} attachments.
.Pp
An unknown key, a wrong value and a key that the driver does not take are errors.
The container does not start then.
.Sh KEYS
.Bl -tag -width Ds
"#,
        version = env!("CARGO_PKG_VERSION"),
        attachments = mcrun::attachment::MAX_ATTACHMENTS,
    );
    for key in KEYS {
        page += &format!(".It Cm {} Ns = Ns Ar {}\n", argument(key.name), value(key.value));
        page += &lines(&meaning(key));
        page += &lines(&format!("Default: {}.", key.default));
        if key.drivers != mcrun::attachment::Drivers::All {
            page += &lines(&format!("For {}.", key.drivers.names()));
        }
        if key.repeatable {
            page += &lines("May be repeated.");
        }
    }
    page += r#".El
.Sh ENVIRONMENT
.Bl -tag -width MCRUN_MCAST
.It Ev MCRUN_MCAST
In the environment of the container: its attachments, when it has no annotation
.Dq io.mcrun.mcast .
An image can set variables too.
So this one counts only if the engine has no annotations, as docker before 24, or if
.Ql environment = true
stands in the section
.Ql [attach]
of
.Xr mcrun.toml 5 .
.El
.Sh FILES
.Bl -tag -width Ds
.It Pa /etc/mcrun/mcrun.toml
Limits that the administrator sets on what containers may ask for.
.El
.Sh EXAMPLES
A macvlan link with an address:
.Pp
.Dl mcrun run --mcast parent=eth1,ip=192.0.2.20/24 IMAGE
.Pp
Two LANs, one for each path of a redundant stream:
.Pp
.Dl mcrun run --mcast parent=red0 --mcast parent=blue0 IMAGE
.Pp
No link: multicast for the interface that the engine has made, and only some groups:
.Pp
.Dl mcrun run --mcast parent=eth1,driver=relay,allow=239.1.0.0/16 IMAGE
.Pp
The same from Docker:
.Pp
.Dl docker run --runtime mcrun --annotation io.mcrun.mcast=parent=eth1,driver=relay IMAGE
.Sh SEE ALSO
.Xr mcrun-attach 1 ,
.Xr mcrun-run 1 ,
.Xr mcrun.toml 5 ,
.Xr ip-link 8
"#;
    page
}

/// What the key does, in sentences.
fn meaning(key: &Key) -> String {
    let mut summary = key.summary.to_owned();
    summary[..1].make_ascii_uppercase();
    format!("{summary}. {}", key.details).trim_end().to_owned()
}

/// A value as an argument of a macro. Words that are macros themselves must not be taken for one.
fn value(text: &str) -> String {
    let words: Vec<_> = text.split(' ').map(argument).collect();
    words.join(" ")
}

fn argument(word: &str) -> String {
    let word = word.replace('\\', "\\e").replace('-', "\\-");
    let (rest, comma) = match word.strip_suffix(',') {
        Some(rest) => (rest, " ,"),
        None => (word.as_str(), ""),
    };
    // A backslash-ampersand keeps a short word from being read as a macro.
    format!("\\&{rest}{comma}")
}

/// Text lines, one for each sentence, none of which begins with a control character.
fn lines(text: &str) -> String {
    let sentences = text.split_inclusive(". ");
    sentences.map(|sentence| format!("{}\n", escape(sentence.trim()))).collect()
}

fn escape(sentence: &str) -> String {
    let text = sentence.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
