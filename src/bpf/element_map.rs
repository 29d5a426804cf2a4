//! A map of elements that a program and a process both use, by bpf(2).

use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::bpf;
use crate::sys::bpf::MapShape;

/// Commands of linux/bpf.h that a process without a capability may call for a map that it has.
pub(crate) const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
pub(crate) const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
pub(crate) const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
pub(crate) const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;

const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// An element takes memory when it is there.
const BPF_F_NO_PREALLOC: u32 = 1;

/// A structure without padding, of which every bit pattern is a value.
///
/// # Safety
/// The type is `repr(C)` and as said.
pub unsafe trait Plain: Copy + Default {}

// SAFETY: as the trait asks for.
unsafe impl Plain for u32 {}

/// The arguments of a command about one element: part of `union bpf_attr`.
#[repr(C)]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    /// Of the value, or of the next key.
    value: u64,
    flags: u64,
}

/// A map from keys to values of these types.
#[derive(Debug)]
pub(super) struct ElementMap<K, V> {
    map: OwnedFd,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> ElementMap<K, V> {
    /// Makes a hash table with room for so many elements.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF.
    pub(super) fn hash(name: &CStr, most: u32) -> io::Result<Self> {
        Ok(Self::of(bpf::create_map(name, Self::hash_shape(most))?))
    }

    /// Makes an array of one element, which is 0.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF.
    pub(super) fn single(name: &CStr) -> io::Result<Self> {
        Ok(Self::of(bpf::create_map(name, Self::single_shape())?))
    }

    /// The hash table of a descriptor that another process has passed.
    ///
    /// # Errors
    /// `EINVAL` if it is something else.
    pub(super) fn hash_from(descriptor: OwnedFd, most: u32) -> io::Result<Self> {
        bpf::check_map(&descriptor, Self::hash_shape(most))?;
        Ok(Self::of(descriptor))
    }

    /// The array of one element of a descriptor that another process has passed.
    ///
    /// # Errors
    /// `EINVAL` if it is something else.
    pub(super) fn single_from(descriptor: OwnedFd) -> io::Result<Self> {
        bpf::check_map(&descriptor, Self::single_shape())?;
        Ok(Self::of(descriptor))
    }

    fn of(map: OwnedFd) -> Self {
        ElementMap { map, types: PhantomData }
    }

    fn hash_shape(most: u32) -> MapShape {
        MapShape { kind: BPF_MAP_TYPE_HASH, flags: BPF_F_NO_PREALLOC, ..Self::shape(most) }
    }

    fn single_shape() -> MapShape {
        MapShape { kind: BPF_MAP_TYPE_ARRAY, ..Self::shape(1) }
    }

    fn shape(most: u32) -> MapShape {
        let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
        MapShape { kind: 0, key_size, value_size, max_entries: most, flags: 0 }
    }

    /// The element of a key.
    ///
    /// # Errors
    /// `ENOENT` if there is none.
    pub(super) fn get(&self, key: K) -> io::Result<V> {
        self.call(BPF_MAP_LOOKUP_ELEM, key, V::default())
    }

    /// Sets the element of a key.
    ///
    /// # Errors
    /// `E2BIG` if there are too many.
    pub(super) fn set(&self, key: K, value: V) -> io::Result<()> {
        self.call(BPF_MAP_UPDATE_ELEM, key, value).map(drop)
    }

    /// Removes the element of a key, and gives it.
    ///
    /// # Errors
    /// `ENOENT` if there is none.
    pub(super) fn take(&self, key: K) -> io::Result<V> {
        self.call(BPF_MAP_LOOKUP_AND_DELETE_ELEM, key, V::default())
    }

    /// The keys, at most so many.
    pub(super) fn keys(&self, most: usize) -> Vec<K> {
        let mut keys: Vec<K> = Vec::new();
        let mut next = K::default();
        while keys.len() < most {
            let last = keys.last().copied();
            let mut element = Element {
                map: self.map.as_raw_fd().cast_unsigned(),
                unused: 0,
                key: last.as_ref().map_or(0, |key| (&raw const *key).expose_provenance() as u64),
                value: (&raw mut next).expose_provenance() as u64,
                flags: 0,
            };
            // SAFETY: the structure is a beginning of bpf_attr. The keys outlive the call and have the
            // size that the map was made with or checked for.
            if unsafe { bpf::call(BPF_MAP_GET_NEXT_KEY, &raw mut element) }.is_err() {
                break;
            }
            keys.push(next);
        }
        keys
    }

    fn call(&self, command: libc::c_int, key: K, mut value: V) -> io::Result<V> {
        let mut element = Element {
            map: self.map.as_raw_fd().cast_unsigned(),
            unused: 0,
            key: (&raw const key).expose_provenance() as u64,
            value: (&raw mut value).expose_provenance() as u64,
            flags: 0,
        };
        // SAFETY: the structure is a beginning of bpf_attr. Key and value outlive the call and have the
        // sizes that the map was made with or checked for; every bit pattern is a value.
        unsafe { bpf::call(command, &raw mut element) }?;
        Ok(value)
    }
}

impl<K, V> AsFd for ElementMap<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
