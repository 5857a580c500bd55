/**
 * The objects of one open /dev/iommu: numbered in one space whatever their type, counted by their users, destroyed only
 * when nobody uses them (Linux: struct iommufd_object, drivers/iommu/iommufd/main.c).
 */

import { hex, type TraceSink } from '@iommukit/hw';
import { type Kernel, SysError } from '@iommukit/iommu-core';
import { IdMap } from './id-map.ts';
import type { IommufdEvent } from './trace.ts';

export type ObjectType =
  | 'access'
  | 'device'
  | 'fault'
  | 'hw-queue'
  | 'hwpt-nested'
  | 'hwpt-paging'
  | 'ioas'
  | 'selftest'
  | 'vdevice'
  | 'veventq'
  | 'viommu';

/** Values that JSON has; addresses and lengths in bytes are hexadecimal strings. */
export type ObjectDetails = { readonly [name: string]: DetailValue };
export type DetailValue = string | number | boolean | readonly ObjectDetails[];

/** Highest object id. */
const LAST_ID = 0x7fff_ffff;

export abstract class IommufdObject {
  readonly id: number;
  abstract readonly type: ObjectType;
  /** The table itself, and everything that needs the object to stay. */
  users = 1;

  constructor(id: number) {
    this.id = id;
  }

  /** The objects of the context that it uses, one entry for each use. */
  abstract get uses(): readonly IommufdObject[];

  /** What a dump shows of the object besides its users. */
  details(): ObjectDetails {
    return {};
  }

  /** Lets go of what the object uses. Called once, when nobody uses it any more. Never fails. */
  abstract destroy(): void;
}

export class ObjectTable {
  private readonly kernel: Kernel;
  private readonly context: number;
  private readonly trace: TraceSink<IommufdEvent>;
  private objects = new IdMap<IommufdObject>();

  constructor(kernel: Kernel, context: number, trace: TraceSink<IommufdEvent>) {
    this.kernel = kernel;
    this.context = context;
    this.trace = trace;
  }

  /** Ids that are taken, those of tombstones too. */
  get size(): number {
    return this.objects.size;
  }

  all(): IommufdObject[] {
    return [...this.objects.entries()].map(([, object]) => object);
  }

  /**
   * Makes an object under the lowest free id, which stays taken while `build` runs and is free again when it throws.
   * @throws {SysError} ENOMEM, ENOSPC, and what `build` throws
   */
  create<T extends IommufdObject>(build: (id: number) => T): T {
    this.kernel.checkpoint('iommufd_object_alloc');
    const id = this.objects.reserve();
    try {
      if (id > LAST_ID) throw new SysError('ENOSPC', 'iommufd_object_alloc', `all ids up to ${hex(LAST_ID)} are taken`);
      const object = build(id);
      this.objects.set(id, object);
      this.emit('object_create', object);
      return object;
    } catch (error) {
      this.objects.delete(id);
      throw error;
    }
  }

  /** The object `id`, which is of class `type`. @throws {SysError} ENOENT there is none, or it is another type */
  get<T extends IommufdObject>(id: number, type: abstract new (...args: never[]) => T): T {
    const object = this.objects.get(id);
    if (object instanceof type) return object;
    throw new SysError('ENOENT', 'iommufd_get_object', `no ${type.name} has id ${id}`);
  }

  /** @throws {SysError} ENOENT; EBUSY somebody uses it */
  destroy(id: number): void {
    const object = this.objects.get(id);
    if (object === undefined) throw new SysError('ENOENT', 'IOMMU_DESTROY', `no object has id ${id}`);
    if (object.users > 1)
      throw new SysError('EBUSY', 'IOMMU_DESTROY', `${object.type} ${id} has ${object.users} users`);
    this.remove(object);
  }

  /** Gives up one use of an object that goes with its last user. */
  putAndTryDestroy(object: IommufdObject): void {
    if (--object.users === 1) this.remove(object);
  }

  /**
   * Destroys an object that nobody else uses and whose user does not expect it: its id names nothing from now on, and is
   * not used again (Linux: iommufd_object_tombstone_user).
   */
  tombstone(object: IommufdObject): void {
    this.objects.clear(object.id);
    this.end(object);
  }

  /** Destroys everything, what nobody uses first, until nothing is left. */
  destroyAll(): void {
    for (let left = this.all(); left.length > 0; left = this.all()) {
      const leaves = left.filter((object) => object.users === 1);
      if (leaves.length === 0) throw new Error(`objects use each other in a circle: ${left.map((o) => o.id)}`);
      for (const object of leaves) {
        // The end of one may have been that of others.
        if (this.objects.get(object.id) === object) this.remove(object);
      }
    }
    this.objects = new IdMap();
  }

  private remove(object: IommufdObject): void {
    this.objects.delete(object.id);
    this.end(object);
  }

  private end(object: IommufdObject): void {
    object.users = 0;
    object.destroy();
    this.emit('object_destroy', object);
  }

  private emit(name: 'object_create' | 'object_destroy', object: IommufdObject): void {
    if (this.trace.enabled) this.trace.emit({ name, context: this.context, id: object.id, type: object.type });
  }
}
