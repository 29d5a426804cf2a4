//! The files of both families, parsed and as the kernel has them.

use std::io::Write;
use std::net::{Ipv6Addr, UdpSocket};

use crate::net::netns::NetNs;
use crate::proxy::container::membership_files::*;

#[test]
fn the_files_of_the_kernel_are_parsed() {
    let igmp = format!(
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
         1\tlo        :     1      V3\n\t\t\t\t{:08X}     1 0:00000000\t\t0\n\
         7\tmc0       :     2      V2\n\t\t\t\t{:08X}     1 0:00000000\t\t0\n\
         \t\t\t\t{:08X}     1 1:00000010\t\t1\n\
         \t\t\t\t{:08X}     2 0:00000000\t\t1\n\
         \t\t\t\t{:08X}     1 0:00000000\t\t1\n",
        u32::from_ne_bytes([224, 0, 0, 1]),
        u32::from_ne_bytes([239, 1, 2, 3]),
        u32::from_ne_bytes([232, 1, 1, 1]),
        u32::from_ne_bytes([239, 1, 2, 4]),
        u32::from_ne_bytes([224, 0, 0, 1]),
    );
    let mcfilter = "Idx Device        MCA        SRC    INC    EXC\n  \
         7    mc0 0xe8010101 0x0a000005      1      0\n  \
         7    mc0 0xef010204 0x0a000005      1      0\n  \
         7    mc0 0xef010203 0x0a000006      0      1\n";
    let groups = parse::<Ipv4Addr>(&igmp, &SourceEntries::parse(mcfilter.as_bytes()));
    assert_eq!(groups.len(), 3);
    let ssm = &groups[&(7, Ipv4Addr::new(232, 1, 1, 1))];
    assert_eq!(ssm.filter, SourceFilter::include([Ipv4Addr::new(10, 0, 0, 5)]));
    assert_eq!(ssm.version, 2);
    let hidden = parse::<Ipv4Addr>(&igmp, &SourceEntries::parse(b""));
    let (group, known) = (Ipv4Addr::new(232, 1, 1, 1), ssm.filter.clone());
    let hidden = &hidden[&(7, group)];
    assert_eq!(hidden.filter_after(group, Some(&known)), known, "the list may be hidden");
    assert_eq!(hidden.filter_after(group, None), SourceFilter::any());
    let excluded = &groups[&(7, Ipv4Addr::new(239, 1, 2, 3))];
    assert_eq!(excluded.filter, SourceFilter::exclude([Ipv4Addr::new(10, 0, 0, 6)]));
    assert_eq!(groups[&(7, Ipv4Addr::new(239, 1, 2, 4))].filter, SourceFilter::any());
}

#[test]
fn a_new_membership_has_a_filter_where_the_entries_show_it() {
    let lists = SourceEntries::parse(
        b"Idx Device        MCA        SRC    INC    EXC\n  \
         7    mc0 0xe8010101 0x0a000005      1      0\n  \
         7    mc0 0xe8010101 0x0a000006      1      0\n  \
         7    mc0 0xe8010102 0x0a000006      0      1\n  \
         7    mc0 0xef010204 0x0a000005      1      0\n",
    );
    let source = |last| Ipv4Addr::new(10, 0, 0, last);
    let of = |interface, group| lists.filter_of_joined(interface, Ipv4Addr::from(group));
    assert_eq!(of(7, [239, 1, 2, 3]), Some(SourceFilter::any()));
    assert_eq!(of(7, [232, 1, 1, 1]), Some(SourceFilter::include([source(5), source(6)])));
    assert_eq!(of(8, [232, 1, 1, 1]), None, "the lists of this interface may be hidden");
    let anchored = SourceEntries::parse(b"Idx\n  1  lo 0xe0000001 0xc0000200      1      0\n");
    let group = Ipv4Addr::new(232, 1, 1, 1);
    assert_eq!(anchored.filter_of_joined(8, group), Some(SourceFilter::any()));
    let torn = SourceEntries { in_one_read: false, ..anchored };
    assert_eq!(torn.filter_of_joined(8, group), None);
    assert_eq!(of(7, [239, 1, 2, 4]), None, "another socket may want any source");
    assert_eq!(of(7, [232, 1, 1, 2]), None, "a source is excluded in the SSM range");
}

#[test]
fn a_file_is_read_to_its_end_and_one_without_end_is_refused() {
    let edge = PAGE - LONGEST_LINE;
    for length in [0, 1, edge, edge + 1, PAGE, PAGE + 1, PAGE + edge + 1, 3 * PAGE] {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
        file.write_all(&bytes).unwrap();
        assert!(*read(&file, &mut [0; PAGE]).unwrap() == bytes, "{length} bytes");
    }
    let endless = File::open("/dev/zero").unwrap();
    let error = read(&endless, &mut [0; PAGE]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn an_invalid_line_is_no_membership() {
    assert!(parse::<Ipv4Addr>("", &SourceEntries::parse(b"")).is_empty());
    for line in [
        "1 2 3",
        "7 mc0 0xe8010101",
        "7 mc0 0xe8010101 0x0a000005 x 0",
        "7 mc0 0xe8010101 0x0a000005 1",
        "7 mc0 0xe8010101 0x1000a0005 1 0",
        "7 mc0 e8010101 0x0a000005 1 0",
        "4294967296 mc0 0xe8010101 0x0a000005 1 0",
        "7 mc0 0x 0x0a000005 1 0",
        "7 mc0 0xe8010101 0x0a000005 1 18446744073709551616",
    ] {
        let entries = SourceEntries::<Ipv4Addr>::parse(format!("y\n{line}\n").as_bytes());
        assert_eq!(entries.lines, [], "{line}");
    }
    let lists =
        SourceEntries::<Ipv4Addr>::parse(b"\xff\n\n\xff 7 \n7 mc0 0xe8010101 0x0a000005 1 0");
    assert_eq!(lists.lines.len(), 1, "a valid line after invalid ones is parsed");
    assert!(parse("x\n\t\t\t\tE0000002\n7\n zz\n", &lists).is_empty());
}

#[test]
fn the_files_of_ipv6_are_parsed() {
    let groups = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
                  1    lo              ff010000000000000000000000000001     1 00000008 0\n\
                  7    mc0             ff020000000000000000000000000001     2 0000000C 0\n\
                  7    mc0             ff0200000000000000000001ff000005     1 00000004 0\n\
                  7    mc0             ff3e0000000000000000000080000001     1 00000004 0\n\
                  7    mc0             ff0e0000000000000000000000000001     2 00000004 0\n\
                  7    mc0             ff0e000000000000000000000000000     2 00000004 0\n\
                  x    mc0             ff0e0000000000000000000000000002     2 00000004 0\n\
                  7    mc0             ff0e0000000000000000000000000003\n";
    let sources = "Idx Device                Multicast Address                   Source Address    INC    EXC\n\
                   1     lo ff020000000000000000000000000001 20010db8000000000000000000000001      1      0\n\
                   7    mc0 ff3e0000000000000000000080000001 20010db8000000000000000000000005      1      0\n\
                   7    mc0 ff3e0000000000000000000080000001 20010db800000000000000000000000      1      0\n\
                   7    mc0 ff0e0000000000000000000000000001 +0010db8000000000000000000000005      1      0\n";
    let lists = SourceEntries::<Ipv6Addr>::parse(sources.as_bytes());
    assert_eq!(lists.lines.len(), 2, "{lists:?}");
    let groups = parse(groups, &lists);
    let group = |text: &str| (7, text.parse::<Ipv6Addr>().unwrap());
    let shown: Vec<_> = groups.keys().copied().collect();
    assert_eq!(shown, ["ff02::1:ff00:5", "ff0e::1", "ff3e::8000:1"].map(group));
    let specific = &groups[&group("ff3e::8000:1")];
    assert_eq!(specific.filter, SourceFilter::include(["2001:db8::5".parse().unwrap()]));
    assert_eq!(specific.exact_filter(), Some(&specific.filter));
    assert_eq!(groups[&group("ff0e::1")].filter, SourceFilter::any());
}

/// What the kernel shows of sockets in a new namespace, of a family whose groups and sources these are.
fn shows_what_is_joined<A: Shown>(any: A, specific: A, excluding: A, source: A) {
    let namespace = NetNs::create().unwrap();
    let joined = || {
        let files = MembershipFiles::<A>::open().unwrap();
        let bind = || match A::UNSPECIFIED.into() {
            std::net::IpAddr::V4(_) => UdpSocket::bind("0.0.0.0:0").unwrap(),
            std::net::IpAddr::V6(_) => UdpSocket::bind("[::]:0").unwrap(),
        };
        let sockets = [bind(), bind(), bind()];
        for group in [any, excluding] {
            sockopt::join_group(&sockets[0], 1, group).unwrap();
        }
        sockopt::join_group(&sockets[1], 1, any).unwrap();
        sockopt::join_source_group(&sockets[0], 1, specific, source).unwrap();
        sockopt::exclude_sources(&sockets[0], 1, excluding, [source]).unwrap();
        (files, sockets)
    };
    let (files, sockets) = namespace.run(joined).unwrap();
    // The reader is in another namespace.
    let memberships = files.memberships_with_lists().unwrap();
    let filter = |group| &memberships[&(1, group)].filter;
    assert_eq!(*filter(any), SourceFilter::any());
    assert_eq!(*filter(specific), SourceFilter::include([source]));
    assert_eq!(*filter(excluding), SourceFilter::exclude([source]));
    assert_eq!(memberships.len(), 3, "{memberships:?}");
    assert_eq!(files.users().unwrap()[&(1, any)], 2);
    let entries = files.source_entries(&mut [0; PAGE]).unwrap();
    assert_eq!(entries.filter_of_joined(1, specific), Some(SourceFilter::include([source])));
    assert_eq!(entries.filter_of_joined(1, any), Some(SourceFilter::any()));
    for (socket, group) in
        [(0, any), (0, specific), (0, excluding), (1, any)].map(|(at, group)| (&sockets[at], group))
    {
        sockopt::leave_group(socket, 1, group).unwrap();
    }
    assert_eq!(files.memberships().unwrap(), BTreeMap::new());
}

#[test]
fn the_kernel_shows_what_is_joined() {
    let v4 = ["239.1.1.1", "232.1.1.1", "239.1.1.2", "10.0.0.5"];
    let [any, specific, excluding, source] = v4.map(|text| text.parse::<Ipv4Addr>().unwrap());
    shows_what_is_joined(any, specific, excluding, source);
    let v6 = ["ff0e::1", "ff3e::8000:1", "ff0e::2", "2001:db8::5"];
    let [any, specific, excluding, source] = v6.map(|text| text.parse::<Ipv6Addr>().unwrap());
    shows_what_is_joined(any, specific, excluding, source);
}
