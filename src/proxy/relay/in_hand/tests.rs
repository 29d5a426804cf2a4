use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;

use super::*;

/// A batch that holds these datagrams, and its file.
fn received(payloads: &[&[u8]]) -> (Batch, OwnedFd) {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for payload in payloads {
        sender.send_to(payload, receiver.local_addr().unwrap()).unwrap();
    }
    let mut batch = Batch::in_file();
    let file = batch.file().unwrap().try_clone_to_owned().unwrap();
    let count = batch.receive(&receiver, Flow::Outbound, "eth0").unwrap();
    assert_eq!(count, payloads.len());
    (batch, file)
}

#[test]
fn what_was_received_and_not_sent_is_there_as_it_was_received() {
    let long = [7; 3000];
    let (mut batch, file) = received(&[b"first", &long, b"third", b"fourth"]);
    let file = File::from(file);
    let packets = || read::<Ipv4Addr>(&file).unwrap().unwrap().packets;
    assert_eq!(packets(), [b"first".to_vec(), long.to_vec(), b"third".into(), b"fourth".into()]);
    // Half changed, dropped, and refused: port 0 is no destination.
    batch.open(0).0.fill(0);
    batch.open(1).0[..90].fill(0);
    batch.drop_packet(2);
    assert_eq!(packets(), [b"first".to_vec(), long.to_vec(), b"fourth".into()]);
    let mut seen = Vec::new();
    batch.queue(3, 0, 6, Ipv4Addr::LOCALHOST.socket_address(0));
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    batch.send(&sender, |bytes, _, _| seen = bytes.to_vec());
    assert_eq!(seen, b"fourth");
    assert!(packets().is_empty(), "a batch is done when it was sent");
}

#[test]
fn it_is_given_to_one_successor() {
    let (batch, file) = received(&[b"one"]);
    drop(batch);
    let again = file.try_clone().unwrap();
    let in_hand = InHand::take::<Ipv4Addr>(file).unwrap();
    assert_eq!((in_hand.interface.as_str(), in_hand.flow), ("eth0", Flow::Outbound));
    assert_eq!(in_hand.packets, [b"one".to_vec()]);
    assert!(InHand::take::<Ipv4Addr>(again).is_none());
}

#[test]
fn any_file_is_read_without_harm() {
    let memory = || tempfile::tempfile().unwrap();
    let filled = |size: usize, byte: u8| {
        let file = memory();
        file.write_all_at(&vec![byte; size], 0).unwrap();
        file
    };
    let (pipe, _end) = std::io::pipe().unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let files: [OwnedFd; 7] = [
        memory().into(),
        filled(Shared::<Ipv4Addr>::SIZE - 1, 1).into(),
        filled(Shared::<Ipv4Addr>::SIZE, 0).into(),
        filled(Shared::<Ipv4Addr>::SIZE, 0xff).into(),
        File::open("/dev/zero").unwrap().into(),
        pipe.into(),
        socket.into(),
    ];
    for file in files {
        assert!(InHand::take::<Ipv4Addr>(file).is_none());
    }
    // The right beginning, and behind it lengths, places and parts that there are not.
    for byte in [0x01, 0x7f, 0xff] {
        let file = filled(Shared::<Ipv4Addr>::SIZE, byte);
        let words = [
            (offset_of!(Shared<Ipv4Addr>, layout), Ipv4Addr::LAYOUT),
            (offset_of!(Shared<Ipv4Addr>, flow), 1),
        ];
        for (at, word) in words {
            file.write_all_at(&word.to_ne_bytes(), at as u64).unwrap();
        }
        let in_hand = InHand::take::<Ipv4Addr>(file.into()).unwrap();
        assert!(in_hand.packets.len() <= BATCH);
        assert!(in_hand.packets.iter().all(|packet| packet.len() <= SLOT));
    }
}
