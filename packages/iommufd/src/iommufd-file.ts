/** /dev/iommu as a file. */

import { type Process, SysError } from '@iommukit/iommu-core';
import { IommufdContext, type IommufdOptions } from './context.ts';
import type { DeviceNodes } from './files/device-nodes.ts';
import type { FdTable } from './files/fd-table.ts';
import type { File } from './files/file.ts';
import { Ioas } from './ioas/ioas.ts';
import { type Caller, iommufdIoctl } from './ioctl.ts';

export type IommufdNodeOptions = IommufdOptions & {
  /** The descriptors of a process, for commands that give it one. */
  descriptorsOf: (process: Process) => FdTable;
};

/** One open /dev/iommu. */
export class IommufdFile implements File {
  readonly name = '/dev/iommu';
  readonly context: IommufdContext;
  private readonly descriptorsOf: (process: Process) => FdTable;

  constructor(context: IommufdContext, descriptorsOf: (process: Process) => FdTable) {
    this.context = context;
    this.descriptorsOf = descriptorsOf;
  }

  ioctl(caller: Process, request: number, argument: bigint): number {
    return iommufdIoctl(this.caller(caller), request, argument);
  }

  /** `process` as a caller of this file. */
  caller(process: Process): Caller {
    return { context: this.context, process, descriptors: this.descriptorsOf(process) };
  }

  release(): void {
    this.context.release();
  }
}

/** /dev/iommu of one kernel: who has it open, for those who watch over what is left. */
export class IommufdNode {
  private readonly options: IommufdNodeOptions;
  private readonly live = new Set<IommufdContext>();
  private opened = 0;

  constructor(options: IommufdNodeOptions) {
    this.options = options;
  }

  /** Contexts that something still holds. */
  get contexts(): ReadonlySet<IommufdContext> {
    return this.live;
  }

  /** Objects of all contexts. */
  get objects(): number {
    return [...this.live].reduce((count, { objects }) => count + objects.size, 0);
  }

  /** Areas mapped in the I/O address spaces of all contexts. */
  get areas(): number {
    const objects = [...this.live].flatMap((context) => context.objects.all());
    return objects.reduce((count, object) => (object instanceof Ioas ? count + object.table.areaCount : count), 0);
  }

  /** A context of its own for each open file. @throws {SysError} ENOMEM */
  open(): IommufdFile {
    const { kernel, descriptorsOf } = this.options;
    kernel.checkpoint('iommufd_fops_open');
    const context: IommufdContext = new IommufdContext(++this.opened, this.options, () => this.live.delete(context));
    this.live.add(context);
    return new IommufdFile(context, descriptorsOf);
  }
}

/** Makes /dev/iommu openable. @throws {SysError} EEXIST */
export function registerIommufd(nodes: DeviceNodes, options: IommufdNodeOptions): IommufdNode {
  const node = new IommufdNode(options);
  nodes.register('/dev/iommu', () => node.open());
  return node;
}

/** The context of an open /dev/iommu. @throws {SysError} EBADFD it is another file */
export function iommufdContextOf(file: File): IommufdContext {
  return iommufdFileOf(file).context;
}

/** @throws {SysError} EBADFD it is another file */
export function iommufdFileOf(file: File): IommufdFile {
  if (file instanceof IommufdFile) return file;
  throw new SysError('EBADFD', 'iommufd_ctx_from_file', `${file.name} is not /dev/iommu`);
}
