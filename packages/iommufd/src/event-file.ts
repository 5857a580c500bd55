/**
 * The descriptor's side of a queue that user space reads (Linux: struct iommufd_eventq,
 * drivers/iommu/iommufd/eventq.c). It holds the queue's object and the context.
 */

import { SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import type { Caller, Descriptors, File } from './files/file.ts';
import type { IommufdObject } from './object-table.ts';

/** An object that is read record by record. */
export type EventSource = IommufdObject & {
  readonly context: IommufdContext;
  /** Fills `into` with whole records, oldest first. @returns bytes filled; 0 when there is none. @throws {SysError} */
  readRecords(into: Uint8Array): number;
  /** POLL bits that hold now. */
  poll(): number;
};

export class EventFile implements File {
  readonly name: string;
  private readonly source: EventSource;

  constructor(name: string, source: EventSource) {
    this.name = name;
    this.source = source;
    source.users++;
    source.context.hold();
  }

  read(_caller: Caller, into: Uint8Array, position: bigint | null): number {
    checkStream('read', position);
    return this.source.readRecords(into);
  }

  poll(): number {
    return this.source.poll();
  }

  release(): void {
    this.source.users--;
    this.source.context.release();
  }
}

/** @throws {SysError} ESPIPE */
export function checkStream(call: string, position: bigint | null): void {
  if (position !== null) throw new SysError('ESPIPE', call, 'an event queue has no positions');
}

/**
 * Gives a queue that has just been made a descriptor among `descriptors`. Without one the queue goes again.
 * @throws {SysError} ENOMEM; EMFILE
 */
export function openEventFile(source: EventSource, descriptors: Descriptors, open: () => EventFile): number {
  const { kernel, objects } = source.context;
  let file: EventFile | null = null;
  try {
    kernel.checkpoint('anon_inode_getfile');
    file = open();
    return descriptors.install(file);
  } catch (error) {
    file?.release();
    objects.destroy(source.id);
    throw error;
  }
}

/** Takes back a queue whose descriptor the caller was not told. */
export function closeEventFile(context: IommufdContext, descriptors: Descriptors, id: number, fd: number): void {
  descriptors.close(fd);
  context.objects.destroy(id);
}
