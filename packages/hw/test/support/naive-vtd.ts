/**
 * DMA remapping as the VT-d specification's tables say it, one bigint at a time, without caches: what the unit is
 * compared with. Slow and obvious on purpose.
 */

export type NaiveMemory = {
  /** The 64-bit word at a byte address, or null where there is no memory. */
  read(address: bigint): bigint | null;
  write(address: bigint, value: bigint): void;
};

export type NaiveConfig = {
  memory: NaiveMemory;
  root: bigint;
  scalable: boolean;
  hostAddressWidth: bigint;
  secondStageLevels: readonly number[];
};

export type NaiveRequest = { rid: number; pasid: number; access: number; address: bigint };

/** A fault by the specification's name, qualified by FPD; or the frame behind the page. */
export type NaiveAnswer = { fault: string; fpd: boolean } | { frame: bigint };

const READ = 1;
const WRITE = 2;
const EXECUTE = 4;
const PRIVILEGED = 8;

class Fault extends Error {
  readonly fpd: boolean;
  constructor(name: string, fpd: boolean) {
    super(name);
    this.fpd = fpd;
  }
}

function bits(value: bigint, high: number, low: number): bigint {
  return (value >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n);
}

const ADDRESS = 0x000ffffffffff000n;

export class NaiveVtd {
  private readonly config: NaiveConfig;
  private fpd = false;

  constructor(config: NaiveConfig) {
    this.config = config;
  }

  untranslated(request: NaiveRequest): NaiveAnswer {
    return this.attempt(() => this.translate(request, 'untranslated'));
  }

  translated(request: NaiveRequest): NaiveAnswer {
    return this.attempt(() => {
      this.context(request, 'translated');
      const names = this.config.scalable ? ['SGN.4', 'SGN.8'] : ['LGN.1', 'LGN.4'];
      if (request.address >> this.config.hostAddressWidth !== 0n) this.fail(names[0]!);
      const frame = request.address >> 12n;
      if (isInterrupt(frame)) this.fail(names[1]!);
      return frame;
    });
  }

  /** An ATS request: `access` is what the completion grants. */
  translationRequest(request: NaiveRequest): { fault: string; fpd: boolean } | { frame: bigint; access: number } {
    const { access, rid, pasid } = request;
    if (pasid < 0 && isInterrupt(request.address >> 12n)) return { frame: 0n, access: WRITE };
    const entry = this.attempt(() => {
      const { entry } = this.binding(request, 'translation');
      return entry === null ? -1n : entry[2]!;
    });
    if ('fault' in entry) return entry;
    let wanted = access;
    const word2 = entry.frame;
    if (word2 >= 0n && usesFirstStage(this.pgtt(request))) {
      if (bits(word2, 1, 1) === 0n) wanted &= ~EXECUTE;
      if (this.isPrivileged(request, this.context(request, 'untranslated')) && bits(word2, 0, 0) === 0n)
        return { frame: 0n, access: 0 };
    }
    const tries = [wanted, wanted & ~EXECUTE, wanted & ~WRITE, wanted & ~(WRITE | EXECUTE), wanted & ~(READ | EXECUTE)];
    for (const granted of tries) {
      if ((granted & (READ | WRITE)) === 0) continue;
      const answer = this.attempt(() =>
        this.translate({ rid, pasid, address: request.address, access: granted }, 'translation'),
      );
      if ('frame' in answer) return { frame: answer.frame, access: granted };
      if (!NOTHING_GRANTED.has(answer.fault)) return answer;
    }
    return { frame: 0n, access: 0 };
  }

  private attempt(action: () => bigint): NaiveAnswer {
    this.fpd = false;
    try {
      return { frame: action() };
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      return { fault: error.message, fpd: error.fpd };
    }
  }

  private fail(name: string): never {
    throw new Fault(name, this.fpd);
  }

  private load(address: bigint, fault: string): bigint {
    const value = this.config.memory.read(address);
    if (value === null) this.fail(fault);
    return value;
  }

  private pointer(entry: bigint, reserved: bigint, fault: string): bigint {
    if ((entry & reserved) !== 0n || entry >> this.config.hostAddressWidth !== 0n) this.fail(fault);
    return entry & ADDRESS;
  }

  /** Root and context entry, and the checks that need no more. */
  private context(request: NaiveRequest, kind: string): bigint[] {
    const { scalable, root } = this.config;
    const rid = BigInt(request.rid);
    if (!scalable) {
      if (request.pasid >= 0) this.fail('RTA.2');
      const rootEntry = this.load(root + 16n * (rid >> 8n), 'LRT.1');
      if (bits(rootEntry, 0, 0) === 0n) this.fail('LRT.2');
      const table = this.pointer(rootEntry, 0xffen, 'LRT.3');
      const low = this.load(table + 16n * (rid & 0xffn), 'LCT.1');
      const high = this.load(table + 16n * (rid & 0xffn) + 8n, 'LCT.1');
      this.fpd = bits(low, 1, 1) === 1n;
      if (bits(low, 0, 0) === 0n) this.fail('LCT.2');
      this.pointer(low, 0xff0n, 'LCT.3');
      if (bits(high, 63, 24) !== 0n || bits(high, 7, 7) !== 0n) this.fail('LCT.3');
      const type = bits(low, 3, 2);
      if (type === 3n || !this.config.secondStageLevels.includes(Number(bits(high, 2, 0)) + 2)) this.fail('LCT.4');
      if (kind !== 'untranslated' && type !== 1n) this.fail('LCT.5');
      return [low, high];
    }
    const rootEntry = this.load(root + 16n * (rid >> 8n) + (bits(rid, 7, 7) === 1n ? 8n : 0n), 'SRT.1');
    if (bits(rootEntry, 0, 0) === 0n) this.fail('SRT.2');
    const table = this.pointer(rootEntry, 0xffen, 'SRT.3');
    const entry = [0n, 8n, 16n, 24n].map((at) => this.load(table + 32n * (rid & 0x7fn) + at, 'SCT.1'));
    const [low, high] = entry as [bigint, bigint];
    this.fpd = bits(low, 1, 1) === 1n;
    if (bits(low, 0, 0) === 0n) this.fail('SCT.2');
    this.pointer(low, 0x1e0n, 'SCT.3');
    if (bits(high, 63, 21) !== 0n || entry[2] !== 0n || entry[3] !== 0n) this.fail('SCT.3');
    if (kind !== 'untranslated' && bits(low, 2, 2) === 0n) this.fail('SCT.5');
    const pasids = 1n << (bits(low, 11, 9) + 13n);
    if (request.pasid < 0) {
      if (bits(high, 19, 0) >= pasids) this.fail('SCT.9');
    } else {
      if (bits(low, 3, 3) === 0n) this.fail('SCT.6');
      if (BigInt(request.pasid) >= pasids) this.fail('SCT.7');
    }
    return entry;
  }

  /** The PASID entry (8 words), or null in legacy mode, and the context entry. */
  private binding(request: NaiveRequest, kind: string): { context: bigint[]; entry: bigint[] | null } {
    const context = this.context(request, kind);
    if (!this.config.scalable) return { context, entry: null };
    const pasid = request.pasid < 0 ? bits(context[1]!, 19, 0) : BigInt(request.pasid);
    const directory = this.load((context[0]! & ADDRESS) + 8n * (pasid >> 6n), 'SPD.1');
    this.fpd ||= bits(directory, 1, 1) === 1n;
    if (bits(directory, 0, 0) === 0n) this.fail('SPD.2');
    const table = this.pointer(directory, 0xffcn, 'SPD.3');
    const entry: bigint[] = [];
    for (let i = 0n; i < 8n; i++) entry.push(this.load(table + 64n * (pasid & 63n) + 8n * i, 'SPT.1'));
    const [word0, word1, word2] = entry as [bigint, bigint, bigint];
    this.fpd ||= bits(word0, 1, 1) === 1n;
    if (bits(word0, 0, 0) === 0n) this.fail('SPT.2');
    this.pointer(word0, 0xc00n, 'SPT.3');
    this.pointer(word2, 0xf00n, 'SPT.3');
    // Memory types are not advertised: CD, EMTE, EMT, PWT, PCD and PAT are reserved.
    if (bits(word1, 22, 16) !== 0n || bits(word1, 63, 25) !== 0n) this.fail('SPT.3');
    if (entry.slice(3).some((word) => word !== 0n)) this.fail('SPT.3');
    const pgtt = bits(word0, 8, 6);
    if (pgtt < 1n || pgtt > 4n) this.fail('SPT.4');
    const levels = Number(bits(word0, 4, 2)) + 2;
    if ((pgtt === 2n || pgtt === 3n) && !this.config.secondStageLevels.includes(levels)) this.fail('SPT.4');
    if (usesFirstStage(pgtt) && bits(word2, 3, 2) > 1n) this.fail('SPT.4');
    return { context, entry };
  }

  private pgtt(request: NaiveRequest): bigint {
    return bits(this.binding(request, 'untranslated').entry![0]!, 8, 6);
  }

  private isPrivileged(request: NaiveRequest, context: bigint[]): boolean {
    if (request.pasid >= 0) return (request.access & PRIVILEGED) !== 0;
    return bits(context[1]!, 20, 20) === 1n;
  }

  private translate(request: NaiveRequest, kind: string): bigint {
    const { context, entry } = this.binding(request, kind);
    const page = request.address >> 12n;
    let frame: bigint;
    if (entry === null) frame = this.legacy(context, request.access, page);
    else {
      const privileged = this.isPrivileged(request, context);
      const execute = (request.access & EXECUTE) !== 0;
      const pgtt = bits(entry[0]!, 8, 6);
      if (usesFirstStage(pgtt)) {
        if (execute && bits(entry[2]!, 1, 1) === 0n) this.fail('SPT.5');
        if (privileged && bits(entry[2]!, 0, 0) === 0n) this.fail('SPT.6');
      }
      if (pgtt === 4n) {
        if (request.address >> this.config.hostAddressWidth !== 0n) this.fail('SGN.4');
        frame = page;
      } else if (pgtt === 2n) frame = this.secondStage(entry, page, request.access, null);
      else frame = this.firstStage(entry, page, request.access, privileged, pgtt === 3n);
    }
    if (isInterrupt(frame)) this.fail(entry === null ? 'LGN.4' : 'SGN.8');
    return frame;
  }

  private legacy(context: bigint[], access: number, page: bigint): bigint {
    const [low, high] = context as [bigint, bigint];
    if (bits(low, 3, 2) === 2n) {
      if (page >> (this.config.hostAddressWidth - 12n) !== 0n) this.fail('LGN.1');
      return page;
    }
    const levels = Number(bits(high, 2, 0)) + 2;
    if (page >> BigInt(9 * levels) !== 0n) this.fail('LGN.1');
    let table = low & ADDRESS;
    let read = true;
    let write = true;
    for (let level = levels - 1; ; level--) {
      const entry = this.load(table + 8n * bits(page, 9 * level + 8, 9 * level), 'LSS.1');
      if (bits(entry, 1, 0) === 0n) this.fail((access & WRITE) !== 0 ? 'LGN.2' : 'LGN.3');
      const leaf = this.checkSecondStageEntry(entry, level, 'LSS.2');
      read &&= bits(entry, 0, 0) === 1n;
      write &&= bits(entry, 1, 1) === 1n;
      if (leaf) {
        if ((access & READ) !== 0 && !read) this.fail('LGN.3');
        if ((access & WRITE) !== 0 && !write) this.fail('LGN.2');
        return inside(entry, page, level);
      }
      table = entry & ADDRESS;
    }
  }

  /** Gives whether the entry is a leaf. */
  private checkSecondStageEntry(entry: bigint, level: number, fault: string): boolean {
    const leaf = level === 0 || (level <= 2 && bits(entry, 7, 7) === 1n);
    let reserved = 1n << 62n;
    if (leaf && level > 0) reserved |= (1n << BigInt(12 + 9 * level)) - 4096n;
    if (!leaf) reserved |= 1n << 11n;
    if (level > 2) reserved |= 1n << 7n;
    const beyond = (entry & ADDRESS) >> this.config.hostAddressWidth !== 0n;
    if ((entry & reserved) !== 0n || beyond) this.fail(fault);
    return leaf;
  }

  /** One walk of a scalable-mode second stage. `onTable`: for a first-stage table, whose denials have names of their own. */
  private secondStage(
    pasidEntry: bigint[],
    page: bigint,
    access: number,
    onTable: { denied: string; readOnly: string } | null,
  ): bigint {
    const word0 = pasidEntry[0]!;
    const levels = Number(bits(word0, 4, 2)) + 2;
    const flags = bits(word0, 9, 9) === 1n;
    const executes = bits(word0, 5, 5) === 1n;
    const path: { address: bigint; entry: bigint }[] = [];
    if (page >> BigInt(9 * levels) !== 0n) this.fail(onTable === null ? 'SGN.5' : 'SFS.5');
    let table = word0 & ADDRESS;
    let allowed = 7n;
    for (let level = levels - 1; ; level--) {
      const address = table + 8n * bits(page, 9 * level + 8, 9 * level);
      const entry = this.load(address, level === levels - 1 ? 'SSS.4' : 'SSS.1');
      if (bits(entry, 1, 0) === 0n) this.fail('SSS.2');
      const leaf = this.checkSecondStageEntry(entry, level, 'SSS.3');
      path.push({ address, entry });
      allowed &= entry;
      if (!leaf) {
        table = entry & ADDRESS;
        continue;
      }
      if ((allowed & 3n) === 0n) this.fail('SSS.2');
      if ((access & READ) !== 0 && (allowed & 1n) === 0n) this.fail(onTable?.denied ?? 'SGN.7');
      if ((access & WRITE) !== 0 && (allowed & 2n) === 0n) this.fail(onTable?.readOnly ?? 'SGN.6');
      if ((access & EXECUTE) !== 0 && (allowed & (executes ? 4n : 1n)) === 0n) this.fail('SGN.3');
      const frame = inside(entry, page, level);
      if (flags) {
        for (const step of path) {
          let value = this.config.memory.read(step.address)! | 0x100n;
          if (step === path[path.length - 1] && (access & WRITE) !== 0) value |= 0x200n;
          this.config.memory.write(step.address, value);
        }
      }
      return frame;
    }
  }

  private firstStage(entry: bigint[], page: bigint, access: number, privileged: boolean, nested: boolean): bigint {
    const word2 = entry[2]!;
    const levels = Number(bits(word2, 3, 2)) + 4;
    const [wpe, nxe, smep, eafe] = [4, 5, 6, 7].map((bit) => bits(word2, bit, bit) === 1n);
    const upper = page >> BigInt(9 * levels - 1);
    if (upper !== 0n && upper !== (1n << BigInt(52 - 9 * levels + 1)) - 1n) this.fail('SGN.1');
    const path: { guest: bigint; address: bigint; leaf: boolean }[] = [];
    let guest = (word2 & ADDRESS) >> 12n;
    const rootFrame = guest;
    let user = true;
    let write = true;
    let noExecute = false;
    let frame = 0n;
    for (let level = levels - 1; ; level--) {
      const names = { denied: guest === rootFrame ? 'SFS.6' : 'SFS.7', readOnly: 'SFS.8' };
      const host = nested ? this.secondStage(entry, guest, READ, names) : guest;
      const address = (host << 12n) + 8n * bits(page, 9 * level + 8, 9 * level);
      const value = this.load(address, level === levels - 1 ? 'SFS.4' : 'SFS.1');
      if (bits(value, 0, 0) === 0n) this.fail('SFS.2');
      const leaf = level === 0 || (level <= 2 && bits(value, 7, 7) === 1n);
      let reserved = nxe ? 0n : 1n << 63n;
      if (leaf && level > 0) reserved |= (1n << BigInt(12 + 9 * level)) - 8192n;
      if (level > 2) reserved |= 1n << 7n;
      if ((value & reserved) !== 0n || (value & ADDRESS) >> this.config.hostAddressWidth !== 0n) this.fail('SFS.3');
      path.push({ guest, address, leaf });
      write &&= bits(value, 1, 1) === 1n;
      user &&= bits(value, 2, 2) === 1n;
      noExecute ||= bits(value, 63, 63) === 1n;
      if (leaf) {
        frame = inside(value, page, level);
        break;
      }
      guest = (value & ADDRESS) >> 12n;
    }
    if (!privileged && !user) this.fail('SGN.2');
    if ((access & WRITE) !== 0 && !write && (!privileged || wpe)) this.fail('SGN.6');
    if ((access & EXECUTE) !== 0 && (noExecute || (privileged && smep && user))) this.fail('SGN.3');
    const through = nested ? this.secondStage(entry, frame, access & 7, null) : frame;
    const used = 0x20n | (eafe ? 0x400n : 0n);
    for (const step of path) {
      const value = this.config.memory.read(step.address)!;
      const wanted = value | used | (step.leaf && (access & WRITE) !== 0 ? 0x40n : 0n);
      if (wanted === value) continue;
      const names = { denied: 'SFS.7', readOnly: 'SFS.8' };
      if (nested) this.secondStage(entry, step.guest, WRITE, names);
      this.config.memory.write(step.address, wanted);
    }
    return through;
  }
}

/** Conditions that a translation request meets with a completion that grants nothing. */
const NOTHING_GRANTED = new Set(
  'LGN.1 LGN.2 LGN.3 SPT.5 SPT.6 SFS.2 SFS.5 SFS.6 SFS.7 SFS.8 SSS.2 SGN.1 SGN.2 SGN.3 SGN.4 SGN.5 SGN.6 SGN.7'.split(
    ' ',
  ),
);

function usesFirstStage(pgtt: bigint): boolean {
  return pgtt === 1n || pgtt === 3n;
}

function isInterrupt(frame: bigint): boolean {
  return frame >> 8n === 0xfeen;
}

/** The 4 KiB frame of `page` in the leaf. */
function inside(entry: bigint, page: bigint, level: number): bigint {
  const mask = (1n << BigInt(9 * level)) - 1n;
  return ((((entry & ADDRESS) >> 12n) & ~mask) | (page & mask)) & 0xffffffffffn;
}
