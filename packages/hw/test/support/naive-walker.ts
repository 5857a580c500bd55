/**
 * Page-table walks written straight from the tables of the specifications, over bigints and one level at a time, to
 * compare the walkers with. Intel SDM volume 3 section 5.5; VT-d specification 4.1 sections 3.6 to 3.8, 9.7, 9.8.
 */

export type NaiveMemory = {
  /** The 8 bytes at a physical address, or null where there is no memory. */
  read(address: bigint): bigint | null;
  write(address: bigint, value: bigint): void;
};

export type NaiveAccess = { read: boolean; write: boolean; execute: boolean; privileged: boolean };

export type NaiveControl = {
  writeProtect: boolean;
  noExecute: boolean;
  smep: boolean;
  extendedAccessed: boolean;
  stage2Dirty: boolean;
  stage2Execute: boolean;
};

export type NaiveOptions = { physicalBits: number; page2M: boolean; page1G: boolean; snoopControl: boolean };

export type NaiveReason =
  | 'not present'
  | 'reserved'
  | 'read'
  | 'write'
  | 'execute'
  | 'privilege'
  | 'unreachable'
  | 'out of range';

export type Allowed = { read: boolean; write: boolean; execute: boolean };

export type NaiveSuccess = { address: bigint; size: bigint; user: Allowed; privileged: Allowed; leaf: bigint };
export type NaiveResult = { fault: null; ok: NaiveSuccess } | { fault: NaiveReason; stage: 1 | 2; gfn: bigint | null };

type Step = { address: bigint; guestAddress: bigint; entry: bigint };

const bit = (value: bigint, n: number): boolean => ((value >> BigInt(n)) & 1n) === 1n;
const field = (value: bigint, high: number, low: number): bigint =>
  (value >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n);

/** First stage alone, or nested when `stage2` translates each guest physical address. */
export function naiveFirstStage(
  memory: NaiveMemory,
  root: bigint,
  levels: number,
  address: bigint,
  access: NaiveAccess,
  control: NaiveControl,
  options: NaiveOptions,
  stage2: ((guest: bigint, access: NaiveAccess) => NaiveResult) | null = null,
): NaiveResult {
  const fail = (fault: NaiveReason): NaiveResult => ({ fault, stage: 1, gfn: null });
  const through = (guest: bigint, how: Partial<NaiveAccess>): NaiveResult => {
    const want = { read: false, write: false, execute: false, privileged: false, ...how };
    const result = stage2!(guest, want);
    return result.fault === null ? result : { ...result, stage: 2, gfn: guest >> 12n };
  };

  const top = field(address, 63, 9 * levels + 11);
  if (top !== 0n && top !== (1n << BigInt(64 - (9 * levels + 11))) - 1n) return fail('out of range');

  const steps: Step[] = [];
  let table = root;
  let leafLevel = levels;
  for (let level = levels; level >= 1; level--) {
    const guestAddress = table + field(address, 9 * level + 11, 9 * level + 3) * 8n;
    let host = guestAddress;
    if (stage2 !== null) {
      const result = through(guestAddress, { read: true });
      if (result.fault !== null) return result;
      host = result.ok.address;
    }
    const entry = memory.read(host);
    if (entry === null) return fail('unreachable');
    steps.push({ address: host, guestAddress, entry });
    if (!bit(entry, 0)) return fail('not present');
    const leaf = level === 1 || (bit(entry, 7) && level <= 3);
    if (options.physicalBits < 52 && field(entry, 51, options.physicalBits) !== 0n) return fail('reserved');
    if (!control.noExecute && bit(entry, 63)) return fail('reserved');
    if (level >= 4 && bit(entry, 7)) return fail('reserved');
    if (leaf && level === 2 && (!options.page2M || field(entry, 20, 13) !== 0n)) return fail('reserved');
    if (leaf && level === 3 && (!options.page1G || field(entry, 29, 13) !== 0n)) return fail('reserved');
    leafLevel = level;
    if (leaf) break;
    table = field(entry, 51, 12) << 12n;
  }

  const isUser = steps.every((step) => bit(step.entry, 2));
  const isWritable = steps.every((step) => bit(step.entry, 1));
  const mayExecute = !control.noExecute || steps.every((step) => !bit(step.entry, 63));
  const user: Allowed = { read: isUser, write: isUser && isWritable, execute: isUser && mayExecute };
  const privileged: Allowed = {
    read: true,
    write: isWritable || !control.writeProtect,
    execute: mayExecute && !(control.smep && isUser),
  };
  const rights = access.privileged ? privileged : user;
  if (wants(access) && !access.privileged && !isUser) return fail('privilege');
  if (access.read && !rights.read) return fail('read');
  if (access.write && !rights.write) return fail('write');
  if (access.execute && !rights.execute) return fail('execute');

  const leaf = steps[steps.length - 1]!.entry;
  const size = 1n << BigInt(9 * leafLevel + 3);
  const page = ((field(leaf, 51, 12) << 12n) & ~(size - 1n)) | (address & (size - 1n));
  let final: NaiveSuccess | null = null;
  if (stage2 !== null) {
    const result = through(page, { read: access.read, write: access.write, execute: access.execute });
    if (result.fault !== null) return result;
    final = result.ok;
  }
  for (const [index, step] of steps.entries()) {
    let marked = step.entry | (1n << 5n);
    if (control.extendedAccessed) marked |= 1n << 10n;
    if (index === steps.length - 1 && access.write) marked |= 1n << 6n;
    const now = memory.read(step.address)!;
    if ((now | marked) === now) continue;
    if (stage2 !== null) {
      const result = through(step.guestAddress, { write: true });
      if (result.fault !== null) return result;
    }
    memory.write(step.address, now | (marked & ~step.entry));
  }
  if (final === null) return { fault: null, ok: { address: page, size, user, privileged, leaf } };
  const both = (a: Allowed, b: Allowed): Allowed => ({
    read: a.read && b.read,
    write: a.write && b.write,
    execute: a.execute && b.execute,
  });
  return {
    fault: null,
    ok: {
      address: final.address,
      size: size < final.size ? size : final.size,
      user: both(user, final.user),
      privileged: both(privileged, final.privileged),
      leaf,
    },
  };
}

export function naiveSecondStage(
  memory: NaiveMemory,
  root: bigint,
  levels: number,
  address: bigint,
  access: NaiveAccess,
  control: NaiveControl,
  options: NaiveOptions,
): NaiveResult {
  const fail = (fault: NaiveReason): NaiveResult => ({ fault, stage: 2, gfn: null });
  if (field(address, 63, 9 * levels + 12) !== 0n) return fail('out of range');

  const steps: { address: bigint; entry: bigint }[] = [];
  let table = root;
  let leafLevel = levels;
  for (let level = levels; level >= 1; level--) {
    const at = table + field(address, 9 * level + 11, 9 * level + 3) * 8n;
    const entry = memory.read(at);
    if (entry === null) return fail('unreachable');
    steps.push({ address: at, entry });
    if (!bit(entry, 0) && !bit(entry, 1)) return fail('not present');
    const leaf = level === 1 || (bit(entry, 7) && level <= 3);
    if (options.physicalBits < 52 && field(entry, 51, options.physicalBits) !== 0n) return fail('reserved');
    if (bit(entry, 62)) return fail('reserved');
    if (bit(entry, 11) && (!leaf || !options.snoopControl)) return fail('reserved');
    if (level >= 4 && bit(entry, 7)) return fail('reserved');
    if (leaf && level === 2 && (!options.page2M || field(entry, 20, 12) !== 0n)) return fail('reserved');
    if (leaf && level === 3 && (!options.page1G || field(entry, 29, 12) !== 0n)) return fail('reserved');
    leafLevel = level;
    if (leaf) break;
    table = field(entry, 51, 12) << 12n;
  }

  const read = steps.every((step) => bit(step.entry, 0));
  const write = steps.every((step) => bit(step.entry, 1));
  const execute = control.stage2Execute ? steps.every((step) => bit(step.entry, 2)) : read;
  if (access.read && !read) return fail('read');
  if (access.write && !write) return fail('write');
  if (access.execute && !execute) return fail('execute');

  const leaf = steps[steps.length - 1]!.entry;
  const size = 1n << BigInt(9 * leafLevel + 3);
  if (control.stage2Dirty) {
    for (const [index, step] of steps.entries()) {
      const last = index === steps.length - 1;
      const now = memory.read(step.address)!;
      const marked = now | (1n << 8n) | (last && access.write ? 1n << 9n : 0n);
      if (marked !== now) memory.write(step.address, marked);
    }
  }
  const rights = { read, write, execute };
  const page = ((field(leaf, 51, 12) << 12n) & ~(size - 1n)) | (address & (size - 1n));
  return { fault: null, ok: { address: page, size, user: rights, privileged: rights, leaf } };
}

function wants(access: NaiveAccess): boolean {
  return access.read || access.write || access.execute;
}
