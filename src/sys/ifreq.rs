//! What any socket can be asked of an interface in its namespace, by name and without privileges
//! (netdevice(7)).

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::Ipv4Net;

/// Primary IPv4 address of an interface; `None` when it has none.
///
/// # Errors
/// As ioctl(2): `ENODEV` when there is no such interface.
pub fn address(socket: impl AsFd, name: &str) -> io::Result<Option<Ipv4Addr>> {
    let request = match ask(socket, libc::SIOCGIFADDR as _, name) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => return Ok(None),
        result => result?,
    };
    Ok(answered_address(&request).filter(|address| !address.is_unspecified()))
}

/// All IPv4 addresses of the socket's namespace.
///
/// # Errors
/// As ioctl(2).
pub fn addresses(socket: impl AsFd) -> io::Result<Vec<Ipv4Addr>> {
    Ok(configured(socket)?.iter().filter_map(answered_address).collect())
}

/// The IPv4 addresses of an interface, with the prefix lengths of their subnets. Empty when there
/// is no such interface.
///
/// # Errors
/// As ioctl(2).
pub fn networks(socket: impl AsFd, name: &str) -> io::Result<Vec<Ipv4Net>> {
    let socket = socket.as_fd();
    let mut networks = Vec::new();
    for mut request in configured(socket)? {
        // An address may have a label, `eth1:backup`.
        let label: Vec<u8> = request.ifr_name.iter().map(|byte| byte.cast_unsigned()).collect();
        let own = label.split(|byte| matches!(byte, 0 | b':')).next() == Some(name.as_bytes());
        let Some(address) = answered_address(&request).filter(|_| own) else { continue };
        // The kernel looks for the address in the request among those of the label. One that has
        // gone meanwhile is left out.
        if ioctl(socket, libc::SIOCGIFNETMASK as _, &mut request).is_ok()
            && let Some(mask) = answered_address(&request)
            && let Ok(network) = Ipv4Net::with_netmask(address, mask)
        {
            networks.push(network);
        }
    }
    Ok(networks)
}

/// Index of an interface.
///
/// # Errors
/// As ioctl(2): `ENODEV` when there is no such interface.
pub fn index(socket: impl AsFd, name: &str) -> io::Result<u32> {
    let request = ask(socket, libc::SIOCGIFINDEX as _, name)?;
    // SAFETY: the kernel has filled in a number.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    u32::try_from(index).map_err(io::Error::other)
}

/// Name of the interface of an index.
///
/// # Errors
/// As ioctl(2): `ENODEV` when there is no such interface.
pub fn name(socket: impl AsFd, index: u32) -> io::Result<String> {
    // SAFETY: a plain C structure, for which all zero is a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    request.ifr_ifru.ifru_ifindex = index.cast_signed();
    ioctl(socket, libc::SIOCGIFNAME as _, &mut request)?;
    let name: Vec<u8> = request.ifr_name.iter().map(|byte| byte.cast_unsigned()).collect();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Whether an interface is up and has a carrier (`IFF_UP`, `IFF_RUNNING`): its flags.
///
/// # Errors
/// As ioctl(2): `ENODEV` when there is no such interface.
pub fn flags(socket: impl AsFd, name: &str) -> io::Result<u32> {
    let request = ask(socket, libc::SIOCGIFFLAGS as _, name)?;
    // SAFETY: the kernel has filled in a number.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(u32::from(flags.cast_unsigned()))
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
    ioctl(socket, command, &mut request).map(|()| request)
}

/// Asks about the interface that the request names.
fn ioctl(socket: impl AsFd, command: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed, and the request is as large as the kernel reads and
    // writes for these commands.
    match unsafe { libc::ioctl(fd, command, std::ptr::from_mut(request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The address that the kernel has filled in; `None` for another family than IPv4.
fn answered_address(request: &libc::ifreq) -> Option<Ipv4Addr> {
    // SAFETY: the kernel has filled in an address, whatever its family.
    let address = unsafe { request.ifr_ifru.ifru_addr };
    if i32::from(address.sa_family) != libc::AF_INET {
        return None;
    }
    // In a sockaddr_in the address follows the port.
    let mut octets = [0; 4];
    for (octet, byte) in octets.iter_mut().zip(address.sa_data.iter().skip(2)) {
        *octet = byte.cast_unsigned();
    }
    Some(octets.into())
}

/// One request for each IPv4 address of the namespace, with its label and the address.
fn configured(socket: impl AsFd) -> io::Result<Vec<libc::ifreq>> {
    /// More than this at a time are added by nobody.
    const ROOM: usize = 8;
    let fd = socket.as_fd().as_raw_fd();
    let list = |buffer: &mut Vec<libc::ifreq>| {
        let room = buffer.capacity() * size_of::<libc::ifreq>();
        let buf = if room == 0 { std::ptr::null_mut() } else { buffer.as_mut_ptr().cast() };
        let ifc_len = i32::try_from(room).map_err(io::Error::other)?;
        let mut request =
            libc::ifconf { ifc_len, ifc_ifcu: libc::__c_anonymous_ifc_ifcu { ifcu_buf: buf } };
        // SAFETY: the descriptor is borrowed, and the kernel writes at most `ifc_len` bytes to the
        // buffer, which has that room. Without a buffer it tells how many there would be.
        match unsafe { libc::ioctl(fd, libc::SIOCGIFCONF as _, &raw mut request) } {
            0 => Ok(usize::try_from(request.ifc_len).unwrap_or(0) / size_of::<libc::ifreq>()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let mut requests = Vec::new();
    let count = list(&mut requests)?;
    requests.reserve_exact(count + ROOM);
    let count = list(&mut requests)?.min(requests.capacity());
    // SAFETY: the kernel has filled in so many, each whole.
    unsafe { requests.set_len(count) };
    Ok(requests)
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
        assert_eq!(index(&socket, "lo").unwrap(), 1);
        assert_eq!(name(&socket, 1).unwrap(), "lo");
        assert_eq!(name(&socket, 0x7fff_fff0).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(networks(&socket, "lo").unwrap(), ["127.0.0.1/8".parse().unwrap()]);
        assert_eq!(networks(&socket, "l").unwrap(), []);
        assert!(addresses(&socket).unwrap().contains(&Ipv4Addr::LOCALHOST));
        for name in ["", "nowhere", "a name that is much longer than any"] {
            assert_eq!(
                mtu(&socket, name).unwrap_err().raw_os_error(),
                Some(libc::ENODEV),
                "{name}"
            );
        }
    }
}
