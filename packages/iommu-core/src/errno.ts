/** What the operating system refuses: errno values of Linux (include/uapi/asm-generic/errno*.h) and their carrier. */

const numbers = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  EMFILE: 24,
  ENOTTY: 25,
  ENOSPC: 28,
  ESPIPE: 29,
  ERANGE: 34,
  EDEADLK: 35,
  ENOSYS: 38,
  EBADE: 52,
  EOVERFLOW: 75,
  EBADFD: 77,
  EUSERS: 87,
  EMSGSIZE: 90,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  ETIMEDOUT: 110,
} as const;

export type ErrnoCode = keyof typeof numbers;

/**
 * An operation was refused. `code` says how, the message what collided with what, with ids and ranges in hex.
 * Nothing has changed, except where the operation documents a partial effect.
 */
export class SysError extends Error {
  readonly code: ErrnoCode;
  /** The positive errno number. */
  readonly errno: number;
  /** The call that refused, as the field names it: `iommu_attach_device`, `IOMMU_IOAS_MAP`. */
  readonly syscall: string;

  constructor(code: ErrnoCode, syscall: string, message: string) {
    super(`${syscall}: ${message} (${code})`);
    this.name = 'SysError';
    this.code = code;
    this.errno = numbers[code];
    this.syscall = syscall;
  }
}
