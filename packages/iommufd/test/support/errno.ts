/** Results of system calls that fail: negative errno values (include/uapi/asm-generic/errno*.h). */

export const EPERM = -1;
export const ENOENT = -2;
export const EIO = -5;
export const E2BIG = -7;
export const EBADF = -9;
export const ENOMEM = -12;
export const EFAULT = -14;
export const EBUSY = -16;
export const EEXIST = -17;
export const ENODEV = -19;
export const EINVAL = -22;
export const EMFILE = -24;
export const ENOTTY = -25;
export const ENOSPC = -28;
export const EDEADLK = -35;
export const EBADE = -52;
export const EOVERFLOW = -75;
export const EBADFD = -77;
export const EMSGSIZE = -90;
export const EOPNOTSUPP = -95;
export const EADDRINUSE = -98;
