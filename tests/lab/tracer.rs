//! A running process that is stopped at a system call, or at an instruction behind it, and killed
//! there (ptrace(2)).

use std::ptr;

/// A process that this thread traces. It must have one thread.
pub struct Tracer {
    pid: i32,
}

/// Where a process is stopped.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The number of a system call.
    pub call: libc::c_long,
    /// The end of which of its calls that give more than 0, counted from 1.
    pub count: u32,
    /// Instructions behind that.
    pub steps: u32,
}

impl Tracer {
    /// Stops the process.
    pub fn seize(pid: i32) -> Tracer {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        request(libc::PTRACE_SEIZE, pid, options as usize);
        request(libc::PTRACE_INTERRUPT, pid, 0);
        let tracer = Tracer { pid };
        assert!(tracer.wait_stopped(), "process {pid} has ended");
        tracer
    }

    /// Lets it run to a place. On a machine under load the keeper may take the process for hung on
    /// the way: then it was killed there, and that is the place.
    pub fn run_to(&self, place: Place) {
        let (mut call, mut count) = (-1, 0);
        while count < place.count {
            request(libc::PTRACE_SYSCALL, self.pid, 0);
            if !self.wait_stopped() {
                return;
            }
            match self.system_call() {
                Stop::Entry(number) => call = number,
                Stop::Exit(value) => count += u32::from(call == place.call && value > 0),
                Stop::Other => {}
            }
        }
        for _ in 0..place.steps {
            request(libc::PTRACE_SINGLESTEP, self.pid, 0);
            if !self.wait_stopped() {
                return;
            }
        }
    }

    /// Kills it where it is.
    pub fn kill(self) {
        // SAFETY: a system call; the process is not reaped, so the number is its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        let mut status = libc::W_STOPCODE(0);
        while libc::WIFSTOPPED(status) {
            status = wait(self.pid);
        }
        assert!(libc::WIFSIGNALED(status), "it was killed: {status:#x}");
    }

    /// Waits until it is stopped; `false`: it was killed.
    fn wait_stopped(&self) -> bool {
        // SAFETY: all zero is a value of the structure, which the call writes. The process is not
        // reaped, so that its number stays its own.
        let (waited, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WALL;
            (libc::waitid(libc::P_PID, self.pid.cast_unsigned(), &raw mut info, flags), info)
        };
        assert_eq!(waited, 0, "waitid: {}", std::io::Error::last_os_error());
        if info.si_code == libc::CLD_KILLED {
            return false;
        }
        let status = wait(self.pid);
        assert!(libc::WIFSTOPPED(status), "process {} has ended: {status:#x}", self.pid);
        true
    }

    fn system_call(&self) -> Stop {
        // SAFETY: a structure of integers, for which all zero is a value.
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let size = size_of_val(&info);
        // SAFETY: the kernel writes as many bytes as the size says.
        let result =
            unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.pid, size, &raw mut info) };
        assert!(result > 0, "ptrace: {}", std::io::Error::last_os_error());
        match info.op {
            // SAFETY: the kind says which of the union is valid.
            libc::PTRACE_SYSCALL_INFO_ENTRY => unsafe {
                Stop::Entry(info.u.entry.nr as libc::c_long)
            },
            // SAFETY: as above.
            libc::PTRACE_SYSCALL_INFO_EXIT => unsafe { Stop::Exit(info.u.exit.sval) },
            _ => Stop::Other,
        }
    }
}

enum Stop {
    Entry(libc::c_long),
    Exit(i64),
    Other,
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the status is written by the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert_eq!(waited, pid, "waitpid: {}", std::io::Error::last_os_error());
    status
}

fn request(request: libc::c_uint, pid: i32, data: usize) {
    // SAFETY: requests that touch the tracee only; the address is not used by them.
    let result = unsafe { libc::ptrace(request, pid, ptr::null_mut::<libc::c_void>(), data) };
    assert_eq!(result, 0, "ptrace {request}: {}", std::io::Error::last_os_error());
}
