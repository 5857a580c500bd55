/** Who a process is and what it may use (Linux: struct cred, struct user_struct, getrlimit(2), capabilities(7)). */

export type ProcessCapability = 'CAP_IPC_LOCK' | 'CAP_SYS_RESOURCE' | 'CAP_SYS_RAWIO';

/** A user of the system; all processes of one uid share one object. */
export class User {
  readonly uid: number;
  /** Pages charged against RLIMIT_MEMLOCK per user (Linux: user_struct.locked_vm). */
  lockedPages = 0;

  constructor(uid: number) {
    this.uid = uid;
  }
}

export class Credentials {
  readonly user: User;
  /** Effective capabilities. */
  readonly capabilities: Set<ProcessCapability>;

  constructor(user: User, capabilities: Iterable<ProcessCapability>) {
    this.user = user;
    this.capabilities = new Set(capabilities);
  }

  /** True when the process holds `capability` (Linux: capable). */
  has(capability: ProcessCapability): boolean {
    return this.capabilities.has(capability);
  }
}

/** Soft limits. */
export type ResourceLimits = {
  /** RLIMIT_MEMLOCK in bytes; Infinity is RLIM_INFINITY. */
  memlock: number;
};

/** Linux's default RLIMIT_MEMLOCK: 8 MiB. */
export const DEFAULT_MEMLOCK: number = 8 << 20;
