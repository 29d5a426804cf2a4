//! The keeper as systemd's service, which stores the keeper's descriptors (FileDescriptorStoreMax=).

use std::net::Ipv4Addr;

use super::{number, property, systemctl, wait_for_successor};
use crate::lab::{Lab, PATIENCE, alive, assert_whole_while, kill, wait_until};
use crate::vm;

const UNIT: &str = "mcrun-keeper.service";
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 3, 1);
const PORT: u16 = 6000;

#[test]
#[ignore = "boots a virtual machine: make test-vm"]
fn what_systemd_stores_carries_a_stream_over_dead_keepers_and_proxies() {
    vm::run_with_systemd(|| {
        assert_eq!(property(UNIT, "ActiveState"), "active");
        for version in [2, 3] {
            let lab = Lab::on_this_machine(version);
            let stored_before = number(UNIT, "NFileDescriptorStore");
            let container = lab.start("c", "10.99.0.11");
            let socket = container.socket_on("mc0", PORT);
            socket.join(GROUP);
            lab.wait_joined(&container, GROUP);
            lab.wait_forwarded(GROUP);
            let mut proxy = lab.wait_held(&container);
            let wait_stored = || {
                // Rules, joins, counts and status.
                wait_until("systemd stores it", PATIENCE, || {
                    (number(UNIT, "NFileDescriptorStore") >= stored_before + 4).then_some(())
                });
            };
            wait_stored();
            let capture = lab.capture();
            assert_whole_while(
                &lab,
                &[&socket],
                (GROUP, PORT),
                |_| {},
                || {
                    let successor = |before: i32| {
                        wait_until("the proxy has a successor", PATIENCE, || {
                            Some(lab.wait_held(&container)).filter(|pid| *pid != before)
                        })
                    };
                    let mut keeper = number(UNIT, "MainPID");
                    for both in [false, true, false] {
                        kill(keeper as i32);
                        if both {
                            kill(proxy);
                            wait_until("it is dead", PATIENCE, || (!alive(proxy)).then_some(()));
                        }
                        keeper = wait_for_successor(UNIT, keeper);
                        if both {
                            proxy = successor(proxy);
                        }
                        assert_eq!(lab.wait_held(&container), proxy);
                        // What the new keeper has of systemd is enough.
                        kill(proxy);
                        proxy = successor(proxy);
                        wait_stored();
                    }
                    systemctl(&["restart", UNIT]);
                    wait_for_successor(UNIT, keeper);
                    assert_eq!(lab.wait_held(&container), proxy);
                    kill(proxy);
                    proxy = successor(proxy);
                },
            );
            lab.assert_nothing_was_left(&capture.finish());
            lab.wait_joined(&container, GROUP);
            drop(socket);
            lab.delete(&container);
            wait_until("nothing of it is stored", PATIENCE, || {
                (number(UNIT, "NFileDescriptorStore") <= stored_before).then_some(())
            });
            lab.assert_clean(PATIENCE);
        }
    });
}
