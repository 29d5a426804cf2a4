//! What any socket can be asked of an interface in its namespace, by name and without privileges
//! (netdevice(7)).

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

/// Primary IPv4 address of an interface; `None` when it has none.
///
/// # Errors
/// As ioctl(2): `ENODEV` when there is no such interface.
pub fn address(socket: impl AsFd, name: &str) -> io::Result<Option<Ipv4Addr>> {
    let request = match ask(socket, libc::SIOCGIFADDR as _, name) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => return Ok(None),
        result => result?,
    };
    // SAFETY: the kernel has filled in an address, whatever its family.
    let address = unsafe { request.ifr_ifru.ifru_addr };
    if i32::from(address.sa_family) != libc::AF_INET {
        return Ok(None);
    }
    // In a sockaddr_in the address follows the port.
    let mut octets = [0; 4];
    for (octet, byte) in octets.iter_mut().zip(address.sa_data.iter().skip(2)) {
        *octet = byte.cast_unsigned();
    }
    let address = Ipv4Addr::from(octets);
    Ok((!address.is_unspecified()).then_some(address))
}

/// MTU of an interface in bytes.
///
/// # Errors
/// As ioctl(2): `ENODEV` when there is no such interface.
pub fn mtu(socket: impl AsFd, name: &str) -> io::Result<usize> {
    let request = ask(socket, libc::SIOCGIFMTU as _, name)?;
    // SAFETY: the kernel has filled in a number.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    usize::try_from(mtu).map_err(io::Error::other)
}

fn ask(socket: impl AsFd, command: libc::Ioctl, name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a plain C structure, for which all zero is a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed, and the request is as large as the kernel reads and
    // writes for these commands.
    match unsafe { libc::ioctl(fd, command, &raw mut request) } {
        0 => Ok(request),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_loopback_interface_is_known_and_others_are_not() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(address(&socket, "lo").unwrap(), Some(Ipv4Addr::LOCALHOST));
        assert!(mtu(&socket, "lo").unwrap() >= 1500);
        for name in ["", "nowhere", "a name that is much longer than any"] {
            assert_eq!(
                mtu(&socket, name).unwrap_err().raw_os_error(),
                Some(libc::ENODEV),
                "{name}"
            );
        }
    }
}
