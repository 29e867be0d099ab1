"""The seccomp profile of containers that bring none: what ordinary programs call, and no more.

The rule of thumb: a call is allowed if the kernel has let every unprivileged process make it for years
and it concerns only the caller, its children, files, sockets and memory. Calls that act on the machine
are allowed to those who hold the capability which the kernel would ask for anyway. Calls that are known
and unwanted fail with EPERM; calls that we never heard of fail with ENOSYS, so that a C library newer
than this table takes its older way. Out of scope: compiling (container.linux.seccomp).
"""

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Allowed to everybody. One line per subject; names of other architectures' variants beside them.
_ALLOWED = """
_llseek _newselect accept accept4 access alarm arch_prctl bind brk cachestat close close_range connect
creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64
fallocate fanotify_mark fcntl fcntl64 flock fork fstat fstat64 fstatat64 fstatfs fstatfs64 fsync fdatasync
ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
chdir chmod chown chown32 fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat lchown lchown32
clock_adjtime clock_adjtime64 adjtimex clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 copy_file_range capget capset
get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority
getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt
gettid gettimeofday getuid getuid32
fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl
ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
link linkat listen lseek lsm_get_self_attr lsm_list_modules lstat lstat64
madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mlock mlock2 mlockall
mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap
mknod mknodat modify_ldt mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd
name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
process_mrelease pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2
read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
rename renameat renameat2 restart_syscall rmdir riscv_hwprobe rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
sched_setparam sched_setscheduler sched_yield seccomp select
semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32
shmat shmctl shmdt shmget shutdown sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask
sigreturn sigsuspend socketcall socketpair splice stat stat64 statfs statfs64 statmount listmount statx
symlink symlinkat sync sync_file_range sync_file_range2 syncfs sysinfo
tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times
tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat utimensat_time64 utimes
uretprobe vfork vmsplice wait4 waitid waitpid write writev
arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls get_tls sync_file_range2
"""

#: Allowed to those who hold the capability.
_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_ADMIN": """bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
        lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open
        pivot_root quotactl quotactl_fd setdomainname sethostname setns swapoff swapon syslog umount
        umount2 unshare""",
    "CAP_SYS_BOOT": "reboot kexec_load kexec_file_load",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}

#: Known and unwanted for everybody. io_uring passes by filters of system calls; keys and userfaultfd
#: are shared with, or help against, the kernel outside; the rest is history.
_UNWANTED = """
_sysctl add_key create_module get_kernel_syms io_uring_enter io_uring_register io_uring_setup keyctl
nfsservctl query_module request_key sysfs uselib userfaultfd ustat vm86 vm86old
"""

# include/uapi/linux/sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NAMESPACE_FLAGS = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)

# include/linux/socket.h
_AF_VSOCK = 40

#: personality(2): PER_LINUX, PER_LINUX32, UNAME26 with either, and the question which it is.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


def default_profile(capabilities: "list[str]", machine: str) -> "dict[str, Any]":
    """Return linux.seccomp for a container that may hold `capabilities` (its bounding set).

    Args:
        capabilities: names such as `CAP_SYS_ADMIN`.
        machine: as of uname(2).
    """
    held = [name for name in _BY_CAPABILITY if name in capabilities]
    granted = {call for name in held for call in _BY_CAPABILITY[name].split()}
    known = {call for calls in _BY_CAPABILITY.values() for call in calls.split()} | set(_UNWANTED.split())
    allowed = sorted(set(_ALLOWED.split()) | granted)
    rules = [
        _rule(allowed, "SCMP_ACT_ALLOW"),
        _rule(sorted(known - granted - {"clone", "clone3", "unshare"}), "SCMP_ACT_ERRNO", errno.EPERM),
        _rule(["socket"], "SCMP_ACT_ALLOW", test=("SCMP_CMP_NE", _AF_VSOCK, 0)),
        _rule(["socket"], "SCMP_ACT_ERRNO", errno.EAFNOSUPPORT, ("SCMP_CMP_EQ", _AF_VSOCK, 0)),
        *(_rule(["personality"], "SCMP_ACT_ALLOW", test=("SCMP_CMP_EQ", one, 0)) for one in _PERSONALITIES),
        *([] if "CAP_SYS_ADMIN" in capabilities else _namespace_rules()),
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": _ARCHITECTURES.get(machine, []),
        "syscalls": rules,
    }


def _namespace_rules() -> "list[dict[str, Any]]":
    """Let threads and processes be made, but no namespaces.

    `clone3` stays unknown (ENOSYS): its flags lie in memory where no filter sees them, and libraries
    then use `clone`.
    """
    calls = ["clone", "unshare"]
    every = sum(_NAMESPACE_FLAGS)
    return [
        _rule(calls, "SCMP_ACT_ALLOW", test=("SCMP_CMP_MASKED_EQ", every, 0)),
        *(_rule(calls, "SCMP_ACT_ERRNO", errno.EPERM, ("SCMP_CMP_MASKED_EQ", flag, flag)) for flag in _NAMESPACE_FLAGS),
    ]


def _rule(
    names: "list[str]", action: str, number: "int | None" = None, test: "tuple[str, int, int] | None" = None
) -> "dict[str, Any]":
    rule: dict[str, Any] = {"names": names, "action": action}
    if number is not None:
        rule["errnoRet"] = number
    if test is not None:
        op, value, second = test
        rule["args"] = [{"index": 0, "op": op, "value": value, "valueTwo": second}]
    return rule
