//! Named networks: the administrator's files, who may use them, and `mcrun network`.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::{Bundle, Lab, Runtime, json, output, run};

/// A hook of a container that was refused has cleaned up by then.
const SOON: Duration = Duration::from_secs(1);

/// Writes a network.
fn network(lab: &Lab, name: &str, text: &str) {
    let directory = lab.config_dir().join("networks");
    fs::create_dir_all(&directory).expect("directory");
    fs::write(directory.join(format!("{name}.toml")), text).expect("network");
}

/// Asserts that an attachment is refused with these words, and that nothing is left of it.
fn assert_refused(lab: &Lab, attachment: &str, words: &str) {
    let refused = lab.try_start("refused", &[attachment], &[]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{attachment}");
    assert!(errors.contains(words), "{attachment}: {errors}");
    lab.assert_clean(SOON);
}

/// What `mcrun network ARGUMENTS` prints, and its status.
fn networks(lab: &Lab, arguments: &[&str]) -> (i32, String, String) {
    let done = output(lab.mcrun(["network"]).args(arguments));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code().expect("a status"), text(&done.stdout), text(&done.stderr))
}

const MEDIA: &str = "parent = \"lan0\"\nsubnet = \"10.99.0.0/24\"\ngateway = \"10.99.0.254\"\n\
                     exclude = \"10.99.0.60-10.99.0.69\"\nallow = \"239.9.0.0/16\"\nl2 = \"open\"\n";

#[test]
fn a_container_on_a_network_is_attached_as_its_file_says() {
    let mut lab = Lab::new(2);
    network(&lab, "media", MEDIA);
    // By mcrun run, by a hook of a bundle, and by mcrun attach.
    let first = lab.start_with("first", &["net=media,ip=10.99.0.11/24"], &[]);
    lab.assert_stream_arrives(&first, Ipv4Addr::new(239, 9, 3, 1));
    let mut bundle = Bundle::new(&lab, "second");
    bundle.add_hooks(&lab);
    bundle.annotate("net=media,ip=10.99.0.12/24,name=red");
    bundle.write();
    let second = bundle.start(&lab, Runtime::Runc, "second");
    lab.settle();
    run(&mut lab.mcrun(["attach", &second.id, "--mcast", "net=media,name=blue"]));
    let shown = json(&mut lab.mcrun(["network", "inspect", "--json", "media"]));
    let containers = shown["containers"].as_array().expect("an array");
    let mut of_it: Vec<_> = containers
        .iter()
        .map(|c| format!("{} {}", c["interface"].as_str().unwrap(), c["addresses"]))
        .collect();
    of_it.sort();
    assert_eq!(of_it, ["blue []", "mc0 [\"10.99.0.11/24\"]", "red [\"10.99.0.12/24\"]"]);
    assert_eq!(shown["keys"]["l2"], "open");
    let record = json(&mut lab.mcrun(["inspect", "--json", &first.id]));
    let attachment = &record["attachments"][0]["attachment"];
    assert_eq!(attachment["gateways"][0], "10.99.0.254");
    let (status, _, errors) = networks(&lab, &["rm", "media"]);
    assert!(status == 1 && errors.contains("is on it; --force"), "{errors}");
    let (_, table, _) = networks(&lab, &["ls"]);
    assert!(table.contains("media  lan0    macvlan  10.99.0.0/24  2"), "{table}");
    // The container keeps what it has.
    assert_eq!(networks(&lab, &["rm", "--force", "media"]).0, 0);
    for command in ["inspect", "leases", "rm"] {
        let (status, shown, errors) = networks(&lab, &[command, "nobody"]);
        let words = "network nobody: there is no such network";
        assert!(status == 1 && errors.contains(words) && errors.lines().count() == 1, "{errors}");
        assert!(!shown.contains("nobody"), "{shown}");
    }
    run(&mut lab.mcrun(["reload"]));
    lab.assert_stream_arrives(&first, Ipv4Addr::new(239, 9, 3, 2));
    lab.delete(&first);
    lab.delete(&second);
}

#[test]
fn a_file_of_the_administrators_is_limited_by_nothing_and_what_is_written_beside_it_is() {
    let lab = Lab::new(2);
    network(&lab, "media", MEDIA);
    network(&lab, "other", "parent = \"lan0\"\n");
    lab.configure("[attach]\nnetworks = [\"media\"]\nip = \"10.99.0.0/25\"\n");
    for (attachment, words) in [
        ("net=other", "net=other: the administrator allows media (mcrun.toml)"),
        ("parent=lan0", "parent=lan0: the administrator allows none"),
        ("net=media,ip=10.99.0.200/24", "ip=10.99.0.200/24: the administrator allows 10.99.0.0/25"),
        ("net=media,mode=passthru", "mode=passthru: the administrator allows"),
        ("net=media,gw=10.99.0.9,ip=10.99.0.11/24", "gw=10.99.0.9: the administrator allows none"),
        // The file's word is about its own LAN: its l2 = "open" is not for another one.
        ("net=media,parent=lan0", "parent=lan0: the administrator allows none"),
        ("net=media,vlan=7", "parent=lan0.7: the administrator allows none"),
        ("net=media,allow=239.8.0.0/16", "allow=239.8.0.0/16: the network allows 239.9.0.0/16"),
        ("net=media,ip=10.99.0.254/24", "the network does not have it: this is its gateway"),
        ("net=media,ip=10.99.0.61/24", "exclude = \"10.99.0.60-10.99.0.69\" keeps it"),
        ("net=medai", "net=medai: there is no such network; did you mean media?"),
        ("net=../media", "net=../media: not the name of a network"),
        ("mtu=1400", "parent= is missing"),
    ] {
        assert_refused(&lab, attachment, words);
    }
    lab.configure("[attach]\nparents = \"lan0\"\n");
    assert_refused(&lab, "net=media,parent=lan0", "l2=open: the administrator allows closed");
    lab.configure("[attach]\nnetworks = [\"media\"]\ndefault-network = \"media\"\n");
    let container = lab.start_with("c", &["mtu=1400"], &[]);
    let shown = json(&mut lab.mcrun(["inspect", "--json", &container.id]));
    assert_eq!(shown["attachments"][0]["attachment"]["network"]["name"], "media");
    lab.delete(&container);
}

#[test]
fn a_file_with_a_mistake_stops_its_containers_and_is_named_with_its_line() {
    let lab = Lab::new(2);
    network(&lab, "bad", "parent = \"lan0\"\n\nmtu = 5\nparnt = \"lan1\"\n");
    network(&lab, "good", MEDIA);
    let file = lab.config_dir().join("networks/bad.toml");
    let file = file.display();
    let words = format!("net=bad: {file}: line 3: mtu: \"5\": not a number from 68 to 65535");
    assert_refused(&lab, "net=bad", &words);
    let (status, _, errors) = networks(&lab, &["check"]);
    let wanted = format!(
        "{file}:3: mtu: \"5\": not a number from 68 to 65535\n\
         {file}:4: unknown key parnt; did you mean parent?\n"
    );
    assert_eq!((status, errors), (1, wanted));
    assert_eq!(networks(&lab, &["check", "good"]).0, 0);
    let (status, table, errors) = networks(&lab, &["ls"]);
    assert!(status == 1 && table.contains("good") && errors.contains("network bad: "), "{errors}");
    assert_eq!(networks(&lab, &["rm", "bad"]).0, 0);
    assert_eq!(networks(&lab, &["check"]).0, 0);
    let container = lab.start_with("c", &["net=good"], &[]);
    lab.delete(&container);
}

#[test]
fn what_others_can_write_is_no_network() {
    let lab = Lab::new(2);
    network(&lab, "media", MEDIA);
    let directory = lab.config_dir().join("networks");
    let file = directory.join("media.toml");
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    };
    let cannot_read = format!("net=media: cannot read {}", file.display());
    chown(&file, Some(1000), None).expect("owner");
    let words = format!("{cannot_read}: it belongs to user 1000, and has to be root's");
    assert_refused(&lab, "net=media", &words);
    chown(&file, Some(0), None).expect("owner");
    mode(&file, 0o666);
    let words = format!("{cannot_read}: others may write it (mode 666); chmod go-w");
    assert_refused(&lab, "net=media", &words);
    // What a link leads to is what counts.
    let elsewhere = lab.config_dir().join("elsewhere.toml");
    fs::rename(&file, &elsewhere).expect("moved");
    symlink(&elsewhere, &file).expect("link");
    assert_refused(&lab, "net=media", &words);
    assert_eq!(networks(&lab, &["check"]).0, 125);
    mode(&elsewhere, 0o644);
    // Who can write the directory can put a file of root's under another name.
    mode(&directory, 0o1777);
    let words = format!("cannot read {}: others may write it (mode 1777)", directory.display());
    assert_refused(&lab, "net=media", &words);
    for arguments in [&["check"][..], &["create", "b", "--mcast", "parent=lan0"]] {
        let (status, _, errors) = networks(&lab, arguments);
        assert!(status == 125 && errors.contains(&words), "{arguments:?}: {errors}");
    }
    mode(&directory, 0o755);
    let container = lab.start_with("c", &["net=media"], &[]);
    lab.delete(&container);
}

#[test]
fn the_rules_of_groups_hold_on_a_network_too() {
    let lab = Lab::new(2);
    network(&lab, "media", MEDIA);
    network(&lab, "native", "parent = \"lan0\"\nigmp = \"native\"\n");
    lab.configure("[groups]\nallow = [\"239.9.3.0/24\"]\n");
    assert_refused(&lab, "net=native", "igmp=native: the administrator allows proxy");
    let container = lab.start_with("c", &["net=media"], &[]);
    let shown = json(&mut lab.mcrun(["inspect", "--json", &container.id]));
    let allowed = &shown["attachments"][0]["policy"]["allow"];
    assert_eq!(allowed, &serde_json::json!([{ "groups": "239.9.3.0/24" }]), "{shown}");
    lab.delete(&container);
    lab.configure("[groups]\nallow = [\"239.8.0.0/16\"]\n");
    assert_refused(&lab, "net=media", "allow=239.9.0.0/16: the administrator allows 239.8.0.0/16");
}

#[test]
fn create_writes_a_whole_file_or_none() {
    let lab = Lab::new(2);
    let make = ["create", "media", "--mcast", "parent=lan0,allow=239.9.0.0/16,mtu=1400"];
    let (status, printed, errors) = networks(
        &lab,
        &[&make[..], &["--subnet", "10.99.0.0/24", "--description", "one"]].concat(),
    );
    assert_eq!((status, printed.as_str()), (0, "media\n"), "{errors}");
    let text = fs::read_to_string(lab.config_dir().join("networks/media.toml")).expect("file");
    assert_eq!(
        text,
        "description = \"one\"\nparent = \"lan0\"\nallow = \"239.9.0.0/16\"\nmtu = 1400\n\
         subnet = \"10.99.0.0/24\"\n"
    );
    for (arguments, words) in [
        (&make[..], "network media exists: "),
        (&["create", "b", "--mcast", "mtu=1400"], "network b: parent is missing"),
        (&["create", "b", "--mcast", "lan0"], "--mcast: \"lan0\" is not KEY=VALUE"),
        (&["create", "b", "--mcast", "parent=lan0", "--exclude", "10.99.0.9"], "is in no subnet"),
    ] {
        let (status, _, errors) = networks(&lab, arguments);
        assert!(status == 125 && errors.contains(words), "{arguments:?}: {errors}");
    }
    assert_eq!(networks(&lab, &["create", "../b", "--mcast", "parent=lan0"]).0, 2);
    assert_eq!(fs::read_dir(lab.config_dir().join("networks")).expect("files").count(), 1);
    let container = lab.start_with("c", &["net=media"], &[]);
    lab.delete(&container);
}

/// A network with a pool of so many addresses, from 10.99.1.1 on.
fn pool_of(lab: &Lab, count: u8) {
    let text = format!(
        "parent = \"lan0\"\nigmp = \"off\"\nl2 = \"open\"\nsubnet = \"10.99.1.0/24\"\n\
         range = \"10.99.1.1-10.99.1.{count}\"\n"
    );
    network(lab, "pool", &text);
}

/// Asserts that the pool has nothing for one more container.
fn assert_exhausted(lab: &Lab, words: &str) {
    let refused = lab.try_start("refused", &["net=pool,ip=pool"], &[]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    let words = format!("ip=pool: network pool has no free address in {words}");
    assert!(!refused.status.success() && errors.contains(&words), "{errors}");
}

/// The address of the only interface of a container.
fn address(lab: &Lab, id: &str) -> String {
    let shown = json(&mut lab.mcrun(["inspect", "--json", id]));
    shown["interfaces"][0]["addresses"][0].as_str().expect("an address").to_owned()
}

/// Named network namespaces, which are removed at the end.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn make(lab: &Lab, count: usize) -> Namespaces {
        let this = Namespaces((0..count).map(|n| lab.namespace(&format!("n{n}"))).collect());
        run(Command::new("sh")
            .args(["-ec", "for n; do ip netns add $n; done", "sh"])
            .args(&this.0));
        this
    }

    /// What mcrun calls one.
    fn path(&self, n: usize) -> String {
        format!("/run/netns/{}", self.0[n])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let script = "for n; do ip netns del $n; done";
        let _ = Command::new("sh").args(["-c", script, "sh"]).args(&self.0).output();
    }
}

#[test]
fn two_hundred_containers_that_start_twenty_at_a_time_have_two_hundred_addresses() {
    let lab = Lab::new(2);
    pool_of(&lab, 200);
    let namespaces = Namespaces::make(&lab, 201);
    let asked = ["--mcast", "net=pool,ip=pool"];
    for first in (0..200).step_by(20) {
        let attach = |n| {
            let mut command = lab.mcrun(["attach", &namespaces.path(n)]);
            command.args(asked).stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().expect("it starts")
        };
        let attaching: Vec<_> = (first..first + 20).map(attach).collect();
        for child in attaching {
            let done = child.wait_with_output().expect("it ends");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
    let leases = json(&mut lab.mcrun(["network", "leases", "--json"]));
    let leases = leases.as_array().expect("an array");
    let addresses: BTreeSet<_> = leases.iter().map(|lease| lease["address"].to_string()).collect();
    assert_eq!((leases.len(), addresses.len()), (200, 200));
    assert!(leases.iter().all(|lease| lease["in_use"] == true), "{leases:?}");
    // What the kernel has is what the leases say.
    let in_kernel = namespaces.0[..200].iter().map(|name| {
        let shown = json(Command::new("ip").args(["-n", name, "-j", "-4", "addr", "show", "mc0"]));
        shown[0]["addr_info"][0]["local"].to_string()
    });
    assert_eq!(in_kernel.collect::<BTreeSet<_>>(), addresses);
    let refused = output(lab.mcrun(["attach", &namespaces.path(200)]).args(asked));
    let errors = String::from_utf8_lossy(&refused.stderr);
    let words = "ip=pool: network pool has no free address in 10.99.1.0/24: all 200 of its pool \
                 are in use (mcrun network leases pool)";
    assert!(!refused.status.success() && errors.contains(words), "{errors}");
    run(&mut lab.mcrun(["detach", &namespaces.0[77]]));
    run(lab.mcrun(["attach", &namespaces.path(200)]).args(asked));
    let lease = leases.iter().find(|lease| lease["name"] == namespaces.0[77].as_str());
    let had = lease.expect("a lease")["address"].as_str().expect("text").to_owned();
    assert_eq!(address(&lab, &namespaces.0[200]), format!("{had}/24"));
    drop(namespaces);
    run(&mut lab.mcrun(["gc"]));
    lab.assert_clean(Duration::from_secs(10));
    let leases = json(&mut lab.mcrun(["network", "leases", "--json", "pool"]));
    let leases = leases.as_array().expect("an array");
    assert!(leases.len() == 200 && leases.iter().all(|lease| lease["in_use"] == false));
}

#[test]
fn a_container_that_starts_again_gets_its_address_back_if_it_is_free() {
    let lab = Lab::new(2);
    pool_of(&lab, 3);
    let start = |name: &str| lab.start_with(name, &["net=pool,ip=pool"], &[]);
    let first = start("a");
    let second = start("b");
    assert_eq!(address(&lab, &first.id), "10.99.1.1/24");
    assert_eq!(address(&lab, &second.id), "10.99.1.2/24");
    lab.delete(&first);
    lab.delete(&second);
    // What nobody had comes first, and then what was free for the longest time.
    let third = start("c");
    assert_eq!(address(&lab, &third.id), "10.99.1.3/24");
    let second = start("b");
    assert_eq!(address(&lab, &second.id), "10.99.1.2/24");
    let fourth = start("d");
    assert_eq!(address(&lab, &fourth.id), "10.99.1.1/24");
    assert_exhausted(&lab, "10.99.1.0/24: all 3 of its");
    // A file that is lost or torn gives no address twice.
    let file = lab.state_dir().join("pools/pool/leases.json");
    fs::write(&file, "{\"leases\":[{\"addr").expect("written");
    assert_exhausted(&lab, "10.99.1.0/24: all 3 of its");
    let leases = json(&mut lab.mcrun(["network", "leases", "--json"]));
    let shown = leases.as_array().expect("an array").iter().map(|lease| {
        assert!(lease["network"] == "pool" && lease["in_use"] == true, "{leases}");
        lease["address"].as_str().expect("text")
    });
    assert_eq!(shown.collect::<Vec<_>>(), ["10.99.1.1", "10.99.1.2", "10.99.1.3"]);
    lab.delete(&third);
    let fifth = start("e");
    assert_eq!(address(&lab, &fifth.id), "10.99.1.3/24");
    for container in [&second, &fourth, &fifth] {
        lab.delete(container);
    }
}

#[test]
fn a_pool_gives_nothing_that_somebody_has() {
    let lab = Lab::new(2);
    network(
        &lab,
        "pool",
        "parent = \"lan0\"\nsubnet = [\"10.99.0.0/24\", \"fd99::/64\"]\ngateway = \"10.99.0.29\"\n\
         range = \"10.99.0.27-10.99.0.34\"\nexclude = \"10.99.0.28\"\n",
    );
    lab.configure(
        "[attach]\nnetworks = [\"pool\"]\nip = \"192.0.2.0/24\"\ngw = []\nroute = \"10.98.0.0/16\"\n",
    );
    lab.ip("host", "addr add 10.99.0.27/24 dev lo");
    lab.ip("host", "neigh add 10.99.0.30 lladdr 02:00:00:00:00:07 dev lan0 nud reachable");
    let asked = "net=pool,ip=pool";
    let first = lab.start_with("a", &[asked], &[]);
    let shown = json(&mut lab.mcrun(["inspect", "--json", &first.id]));
    let wanted = serde_json::json!(["10.99.0.31/24", "fd99::1/64"]);
    assert_eq!(shown["interfaces"][0]["addresses"], wanted);
    assert_eq!(shown["attachments"][0]["attachment"]["gateways"][0], "10.99.0.29");
    lab.assert_stream_arrives(&first, Ipv4Addr::new(239, 9, 3, 1));
    // Two of one container, and one more by mcrun attach.
    let second = lab.start_with("b", &[asked, asked], &[]);
    // The gateway of a route of its own is not an address of the container.
    let routed = format!("{asked},route=10.98.0.0/16@10.99.0.34");
    let refused = output(&mut lab.mcrun(["attach", &second.id, "--mcast", &routed]));
    let errors = String::from_utf8_lossy(&refused.stderr);
    let words = "network pool has no free address in 10.99.0.0/24: all 3 of its pool are in use";
    assert!(!refused.status.success() && errors.contains(words), "{errors}");
    run(&mut lab.mcrun(["attach", &second.id, "--mcast", asked]));
    let shown = json(&mut lab.mcrun(["inspect", "--json", &second.id]));
    let addresses: Vec<_> = (0..3)
        .map(|n| shown["interfaces"][n]["addresses"][0].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(addresses, ["10.99.0.32/24", "10.99.0.33/24", "10.99.0.34/24"]);
    run(&mut lab.mcrun(["reload"]));
    assert_exhausted(&lab, "10.99.0.0/24: all 4 of its");
    lab.delete(&first);
    lab.delete(&second);
}
