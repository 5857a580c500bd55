/**
 * One open /dev/iommu: its objects and what they share (Linux: struct iommufd_ctx). It lives until the file and
 * everything that holds it, devices and event files, are closed; then all objects go, leaf first.
 */

import { noTrace, type TraceSink } from '@iommukit/hw';
import type { IommuGroup, Kernel } from '@iommukit/iommu-core';
import type { DeviceGroup } from './device-group.ts';
import type { AccountMode } from './ioas/accounting.ts';
import { RegisteredMemory } from './ioas/registered-memory.ts';
import { MmapRanges } from './mmap-ranges.ts';
import { ObjectTable } from './object-table.ts';
import type { IommufdEvent } from './trace.ts';
import { CompatIoas } from './type1/compat-ioas.ts';

export type IommufdOptions = {
  kernel: Kernel;
  trace?: TraceSink<IommufdEvent>;
  /** Charge pinned pages to the address space instead of the user. */
  accountMm?: boolean;
  /** Let devices be bound whose interrupts are not isolated (Linux: allow_unsafe_interrupts). */
  allowUnsafeInterrupts?: boolean;
};

export class IommufdContext {
  /** Names the context in traces. */
  readonly id: number;
  readonly kernel: Kernel;
  readonly trace: TraceSink<IommufdEvent>;
  readonly allowUnsafeInterrupts: boolean;
  readonly objects: ObjectTable;
  /** Groups that have a bound device. */
  readonly groups: Map<IommuGroup, DeviceGroup> = new Map();
  readonly registered: RegisteredMemory;
  readonly compatIoas: CompatIoas = new CompatIoas();
  /** What can be mapped through the file. */
  readonly mmaps: MmapRanges;
  private readonly onEnd: () => void;
  private holders = 1;
  private pageGroups = 0;
  private accountMode: AccountMode;

  /** The maker, which is the open file, is the first holder. `onEnd` is called when the last one has let go. */
  constructor(id: number, options: IommufdOptions, onEnd: () => void = () => {}) {
    this.id = id;
    this.onEnd = onEnd;
    this.kernel = options.kernel;
    this.trace = options.trace ?? noTrace;
    this.accountMode = options.accountMm === true ? 'mm' : 'user';
    this.allowUnsafeInterrupts = options.allowUnsafeInterrupts ?? false;
    this.objects = new ObjectTable(this.kernel, id, this.trace);
    this.registered = new RegisteredMemory(this);
    this.mmaps = new MmapRanges(this.kernel);
  }

  /** How pages mapped from now on are charged, when their process has no CAP_IPC_LOCK. */
  get accounting(): AccountMode {
    return this.accountMode;
  }

  /** Only while the context has no object (IOMMU_OPTION_RLIMIT_MODE). */
  setAccounting(mode: 'user' | 'mm'): void {
    this.accountMode = mode;
  }

  /** True when a device of the group is bound here. */
  hasGroup(group: IommuGroup): boolean {
    return this.groups.has(group);
  }

  /** A number for a pin group, never used again. */
  nextPagesId(): number {
    return ++this.pageGroups;
  }

  hold(): void {
    this.holders++;
  }

  /** The last holder destroys everything. Never fails. */
  release(): void {
    if (--this.holders > 0) return;
    this.objects.destroyAll();
    this.registered.clear();
    this.onEnd();
  }
}
