//! Programs that are started in a control group.
//!
//! To move a process to another control group, the kernel waits until no processor is in the middle
//! of a fork or an exit, which takes some milliseconds (`cgroup_attach_lock` in
//! kernel/cgroup/cgroup.c). A process that is made in its group waits for nothing (clone3(2),
//! `CLONE_INTO_CGROUP`, Linux 5.7). Neither std nor glibc 2.36 can do that.

use std::arch::asm;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Flags of clone3(2) that do not fit into a C `int`.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// Words of 16 bytes: the child makes a few system calls on it.
const STACK: usize = 2048;
const EXEC_FAILED: i32 = 127;

/// What the child does: it shares the memory of its parent, which waits until it has executed.
struct ChildTask {
    program: *const libc::c_char,
    arguments: [*const libc::c_char; 2],
    environment: [*const libc::c_char; 2],
    streams: [i32; 3],
    /// Error of the call that failed; 0: none.
    errno: i32,
}

/// Starts a program in a control group, with one variable in its environment and with these
/// standard streams, whose numbers are above 2. Returns its process id; the caller waits for the
/// process.
///
/// # Errors
/// Those of clone3(2) and execve(2): `ENOSYS` and `EINVAL` where the kernel cannot do it, `EACCES`
/// and `EBUSY` for a group that takes no processes.
pub(crate) fn spawn_in_group(
    program: &CString,
    variable: &CString,
    streams: [BorrowedFd<'_>; 3],
    group: BorrowedFd<'_>,
) -> io::Result<i32> {
    let mut stack = vec![0u128; STACK];
    let mut task = ChildTask {
        program: program.as_ptr(),
        arguments: [program.as_ptr(), ptr::null()],
        environment: [variable.as_ptr(), ptr::null()],
        streams: streams.map(|stream| stream.as_raw_fd()),
        errno: 0,
    };
    // SAFETY: an all-zero clone_args is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags =
        (libc::CLONE_VM | libc::CLONE_VFORK) as u64 | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.stack = stack.as_mut_ptr() as u64;
    arguments.stack_size = size_of_val(stack.as_slice()) as u64;
    arguments.cgroup = group.as_raw_fd() as u64;

    // No handler of the parent may run in the child, before its handlers are reset.
    // SAFETY: the sets are written by the calls before they are read.
    let result = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let result = clone3(&raw const arguments, child, &raw mut task);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        result
    };
    // The child has executed the program or has ended.
    drop(stack);
    let pid = match result {
        0.. => result as i32,
        errno => return Err(io::Error::from_raw_os_error(-errno as i32)),
    };
    if task.errno != 0 {
        // SAFETY: the process is a child that nobody has waited for.
        unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
        return Err(io::Error::from_raw_os_error(task.errno));
    }
    Ok(pid)
}

/// Runs in the child, on its own stack, and only makes system calls.
unsafe extern "C" fn child(task: *mut ChildTask) -> ! {
    // SAFETY: the parent waits and keeps the task. The C library's functions used here are those
    // that may be called between vfork(2) and execve(2).
    unsafe {
        for (number, stream) in (0..).zip((*task).streams) {
            if libc::dup2(stream, number) < 0 {
                (*task).errno = *libc::__errno_location();
                libc::_exit(EXEC_FAILED);
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        let arguments = (&raw const (*task).arguments).cast();
        let environment = (&raw const (*task).environment).cast();
        libc::execve((*task).program, arguments, environment);
        (*task).errno = *libc::__errno_location();
        libc::_exit(EXEC_FAILED);
    }
}

/// Makes the child, which calls `entry` with `task` on the stack of the arguments. Returns the
/// process id, or an error number below 0.
///
/// # Safety
/// The arguments are valid and have a stack. `entry` does not return, and leaves the memory that it
/// shares with the parent in order.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(
    arguments: *const libc::clone_args,
    entry: unsafe extern "C" fn(*mut ChildTask) -> !,
    task: *mut ChildTask,
) -> i64 {
    let result: i64;
    // SAFETY: the parent's registers and stack are as before when the call returns in the parent.
    // The child never leaves the lines below.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") task,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// As on x86_64.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(
    arguments: *const libc::clone_args,
    entry: unsafe extern "C" fn(*mut ChildTask) -> !,
    task: *mut ChildTask,
) -> i64 {
    let result: i64;
    // SAFETY: as on x86_64.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") arguments => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x20") task,
            in("x21") entry,
        );
    }
    result
}

/// As on x86_64.
#[cfg(target_arch = "riscv64")]
unsafe fn clone3(
    arguments: *const libc::clone_args,
    entry: unsafe extern "C" fn(*mut ChildTask) -> !,
    task: *mut ChildTask,
) -> i64 {
    let result: i64;
    // SAFETY: as on x86_64.
    unsafe {
        asm!(
            "ecall",
            "bnez a0, 2f",
            "mv a0, s2",
            "jalr s3",
            "ebreak",
            "2:",
            in("a7") libc::SYS_clone3,
            inlateout("a0") arguments => result,
            in("a1") size_of::<libc::clone_args>(),
            in("s2") task,
            in("s3") entry,
        );
    }
    result
}
