/** /dev/iommu as a file. */

import { SysError } from '@iommukit/iommu-core';
import { IommufdContext, type IommufdOptions } from './context.ts';
import type { DeviceNodes } from './files/device-nodes.ts';
import type { Caller, File, Mapping } from './files/file.ts';
import { Ioas } from './ioas/ioas.ts';
import type { Command, IommufdCaller } from './ioctl/command.ts';
import { CommandTable, iommufdIoctl, productionCommands } from './ioctl/dispatch.ts';
import { mmapContext } from './mmap-ranges.ts';

/** One open /dev/iommu. */
export class IommufdFile implements File {
  readonly name = '/dev/iommu';
  readonly context: IommufdContext;

  private readonly commands: CommandTable;

  constructor(context: IommufdContext, commands: CommandTable) {
    this.context = context;
    this.commands = commands;
  }

  ioctl(caller: Caller, request: number, argument: bigint): number {
    return iommufdIoctl(this.commands, this.on(caller), request, argument);
  }

  mmap(_caller: Caller, length: bigint, protection: number, shared: boolean, offset: bigint): Mapping {
    return mmapContext(this.context, length, protection, shared, offset);
  }

  /** `caller` with what it calls on. */
  on(caller: Caller): IommufdCaller {
    const { process, descriptors } = caller;
    return { process, descriptors, context: this.context };
  }

  release(): void {
    this.context.release();
  }
}

/** /dev/iommu of one kernel: who has it open, for those who watch over what is left. */
export class IommufdNode {
  private readonly options: IommufdOptions;
  private readonly live = new Set<IommufdContext>();
  private readonly commands: CommandTable;
  private opened = 0;

  /** `commands` are answered to besides the production ones. */
  constructor(options: IommufdOptions, commands: readonly Command[] = []) {
    this.options = options;
    this.commands = new CommandTable([...productionCommands, ...commands]);
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
    return objects.reduce(
      (count, object) => (object instanceof Ioas ? count + object.table.space.areaCount : count),
      0,
    );
  }

  /** A context of its own for each open file. @throws {SysError} ENOMEM */
  open(): IommufdFile {
    return new IommufdFile(this.createContext(), this.commands);
  }

  /**
   * A context for a file of another kind that maps and attaches by it; the maker is its first holder. `options` are
   * what differs from the node's. @throws {SysError} ENOMEM
   */
  createContext(options: Partial<IommufdOptions> = {}): IommufdContext {
    const merged = { ...this.options, ...options };
    merged.kernel.checkpoint('iommufd_fops_open');
    const context: IommufdContext = new IommufdContext(++this.opened, merged, () => this.live.delete(context));
    this.live.add(context);
    return context;
  }
}

/** Makes /dev/iommu openable, with `commands` besides the production ones. @throws {SysError} EEXIST */
export function registerIommufd(
  nodes: DeviceNodes,
  options: IommufdOptions,
  commands: readonly Command[] = [],
): IommufdNode {
  const node = new IommufdNode(options, commands);
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
