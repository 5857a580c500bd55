/** /dev/ioasid as a file. */

import { type IommuCore, SysError } from '@iommukit/iommu-core';
import type { IommufdOptions } from '../context.ts';
import type { DeviceNodes } from '../files/device-nodes.ts';
import type { Caller, File } from '../files/file.ts';
import { IommufdNode } from '../iommufd-file.ts';
import { IoasidContext, type IoasidRules } from './ioasid-context.ts';
import { type IoasidCaller, ioasidIoctl } from './ioctl.ts';

export type IoasidNodeOptions = IommufdOptions & {
  /** Which version of the proposal an open file follows. */
  rules: IoasidRules;
  /** `/dev/ioasid` by default. */
  path?: string;
  /** Lets address spaces be those of processes (version 2). */
  core?: IommuCore;
};

/** One open /dev/ioasid. */
export class IoasidFile implements File {
  readonly name: string;
  readonly context: IoasidContext;

  constructor(name: string, context: IoasidContext) {
    this.name = name;
    this.context = context;
  }

  ioctl(caller: Caller, request: number, argument: bigint): number {
    return ioasidIoctl(this.on(caller), request, argument);
  }

  /** Records of page requests. */
  read(_caller: Caller, into: Uint8Array, position: bigint | null): number {
    checkStream('read', position);
    return this.context.faults.read(into);
  }

  /** Answers to page requests. */
  write(_caller: Caller, from: Uint8Array, position: bigint | null): number {
    checkStream('write', position);
    return this.context.faults.write(from);
  }

  poll(): number {
    return this.context.faults.poll();
  }

  /** `caller` with what it calls on. */
  on(caller: Caller): IoasidCaller {
    return { ...caller, context: this.context };
  }

  release(): void {
    this.context.close();
  }
}

/** /dev/ioasid of one kernel. */
export class IoasidNode {
  readonly path: string;
  /** Holds what the files are made of, for those who watch over what is left. */
  readonly iommufd: IommufdNode;
  private readonly options: IoasidNodeOptions;

  constructor(options: IoasidNodeOptions) {
    this.path = options.path ?? '/dev/ioasid';
    this.iommufd = new IommufdNode(options);
    this.options = options;
  }

  /** A context of its own for each open file. @throws {SysError} ENOMEM */
  open(): IoasidFile {
    const { rules, core = null } = this.options;
    return new IoasidFile(this.path, new IoasidContext(rules, this.iommufd.createContext(), core));
  }
}

/** Makes /dev/ioasid openable. @throws {SysError} EEXIST */
export function registerIoasid(nodes: DeviceNodes, options: IoasidNodeOptions): IoasidNode {
  const node = new IoasidNode(options);
  nodes.register(node.path, () => node.open());
  return node;
}

/** The context of an open /dev/ioasid, for drivers that bind devices to it. @throws {SysError} EBADFD it is another file */
export function ioasidContextOf(file: File): IoasidContext {
  return ioasidFileOf(file).context;
}

/** @throws {SysError} EBADFD it is another file */
export function ioasidFileOf(file: File): IoasidFile {
  if (file instanceof IoasidFile) return file;
  throw new SysError('EBADFD', 'ioasid_ctx_fdget', `${file.name} is not /dev/ioasid`);
}

function checkStream(call: string, position: bigint | null): void {
  if (position !== null) throw new SysError('ESPIPE', call, 'page requests have no positions');
}
