/**
 * Random sequences of calls on two groups and two containers, against a model that knows nothing but lists: who is
 * where, what is mapped, what is bound. After each call the errno is the model's, and so is what DMA reaches.
 */

import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VFIO_TYPE1_IOMMU, VFIO_TYPE1_NESTING_IOMMU, VFIO_TYPE1v2_IOMMU } from '../../src/index.ts';
import {
  ContainerHost,
  dmaWrite,
  GuestTable,
  GVA,
  NOTHING,
  type Opened,
  PAGE,
  type Program,
} from '../support/container-host.ts';
import { refusal } from '../support/machine.ts';

/** Pages of the memory that is mapped, always from its start. */
const PAGES = 8;
/** Guest pages 1 to 4 hold the guest's page table, whose only leaf names this one. */
const TARGET = 6;
/** Where DMA writes in a page: behind all entries of the table that are used. */
const BYTE = PAGE - 1;

type Range = { readonly iova: number; readonly pages: number };
type Space = { type: number; mappings: Range[] };
type Member = { file: boolean; device: boolean; container: number | null; binds: Set<number> };

class Model {
  readonly containers: Space[] = [0, 1].map(() => ({ type: 0, mappings: [] }));
  readonly groups: Member[] = [0, 1].map(() => ({ file: false, device: false, container: null, binds: new Set() }));

  in(container: number): Member[] {
    return this.groups.filter((group) => group.container === container);
  }

  /** The last one out takes everything. */
  leave(group: Member): void {
    const { container } = group;
    group.container = null;
    if (container !== null && this.in(container).length === 0) {
      this.containers[container] = { type: 0, mappings: [] };
    }
  }

  /** Page of memory behind a page of a container, or null. */
  reach({ mappings }: Space, page: number): number | null {
    const found = mappings.find(({ iova, pages }) => page >= iova && page < iova + pages);
    return found === undefined ? null : page - found.iova;
  }
}

/** What sets an IOMMU, and of which type. */
const TYPES: ReadonlyMap<string, number> = new Map([
  ['first', VFIO_TYPE1_IOMMU],
  ['plain', VFIO_TYPE1v2_IOMMU],
  ['nesting', VFIO_TYPE1_NESTING_IOMMU],
]);

const index = fc.nat(1);
const range = fc.record({
  iova: fc.oneof(fc.constant(0), fc.nat(10)),
  pages: fc.oneof(fc.constant(PAGES), fc.nat(PAGES)),
});
const onGroup = <N extends string>(name: N) => fc.record({ name: fc.constant(name), g: index, c: index });
const onContainer = <N extends string>(name: N) => fc.record({ name: fc.constant(name), c: index, p: index, range });
const operation = fc.oneof(
  fc
    .constantFrom('open', 'open', 'close', 'set', 'set', 'unset', 'openDevice', 'openDevice', 'closeDevice')
    .chain(onGroup),
  fc
    .constantFrom(
      'first',
      'plain',
      'nesting',
      'nesting',
      'map',
      'map',
      'unmap',
      'unmapAll',
      'bind',
      'bind',
      'unbind',
      'invalidate',
    )
    .chain(onContainer),
);
type GroupOperation = { name: string; g: number; c: number };
type ContainerOperation = { name: string; c: number; p: number; range: Range };

/** Does it in the model. @returns the errno, null for none, undefined when there is no descriptor to do it with */
function onModel(model: Model, op: GroupOperation | ContainerOperation): string | null | undefined {
  return 'g' in op ? groupOnModel(model, op) : containerOnModel(model, op);
}

function groupOnModel(model: Model, { name, g, c }: GroupOperation): string | null | undefined {
  const group = model.groups[g]!;
  if (name === 'open') {
    if (group.file || group.device) return 'EBUSY';
    group.file = true;
    return null;
  }
  if (name === 'closeDevice') {
    if (!group.device) return undefined;
    group.device = false;
    group.binds.clear();
    if (!group.file) model.leave(group);
    return null;
  }
  if (!group.file) return undefined;
  switch (name) {
    case 'close':
      group.file = false;
      if (!group.device) model.leave(group);
      return null;
    case 'set':
      if (group.container !== null) return 'EINVAL';
      group.container = c;
      return null;
    case 'unset':
      if (group.container === null) return 'EINVAL';
      if (group.device) return 'EBUSY';
      model.leave(group);
      return null;
    default:
      if (group.device) return undefined;
      if (group.container === null || model.containers[group.container]!.type === 0) return 'EINVAL';
      group.device = true;
      return null;
  }
}

function containerOnModel(model: Model, { name, c, p, range: asked }: ContainerOperation): string | null {
  const space = model.containers[c]!;
  const type = TYPES.get(name);
  if (type !== undefined) {
    if (model.in(c).length === 0 || space.type !== 0) return 'EINVAL';
    space.type = type;
    return null;
  }
  if (space.type === 0) return 'EINVAL';
  const end = asked.iova + asked.pages;
  const met = space.mappings.filter(({ iova, pages }) => iova < end && asked.iova < iova + pages);
  switch (name) {
    case 'map':
      if (asked.pages === 0) return 'EINVAL';
      if (met.length > 0) return 'EEXIST';
      space.mappings.push(asked);
      return null;
    case 'unmap':
      if (asked.pages === 0) return 'EINVAL';
      if (space.type === VFIO_TYPE1_IOMMU) {
        if (met.some(({ iova }) => iova < asked.iova)) return null;
      } else if (met.some(({ iova, pages }) => iova < asked.iova || iova + pages > end)) return 'EINVAL';
      space.mappings = space.mappings.filter((mapping) => !met.includes(mapping));
      return null;
    case 'unmapAll':
      space.mappings = [];
      return null;
    default:
  }
  if (space.type !== VFIO_TYPE1_NESTING_IOMMU) return 'EINVAL';
  const open = model.in(c).filter(({ device }) => device);
  if (open.length === 0) return 'ENODEV';
  const holders = open.filter(({ binds }) => binds.has(p));
  if (name === 'bind') {
    if (holders.length > 0) return 'EBUSY';
    for (const { binds } of open) binds.add(p);
    return null;
  }
  if (holders.length === 0) return 'ENOENT';
  if (name === 'unbind') for (const { binds } of holders) binds.delete(p);
  return null;
}

/** The program, with the descriptors that it has. */
class Actor {
  readonly host: ContainerHost;
  readonly program: Program;
  readonly containers: readonly Opened['container'][];
  readonly groups: (Opened['groups'][number] | null)[] = [null, null];
  readonly devices: (Opened['devices'][number] | null)[] = [null, null];
  readonly memory: bigint;
  readonly pasids: readonly number[];

  constructor(host: ContainerHost) {
    this.host = host;
    const program = host.program();
    this.program = program;
    this.containers = [program.container(), program.container()];
    this.memory = program.system.mmap({ length: PAGES * PAGE });
    this.pasids = [program.pasid(), program.pasid()];
    new GuestTable(program, this.memory).set(GVA, TARGET);
  }

  do(op: GroupOperation | ContainerOperation): void {
    if ('g' in op) this.onGroup(op);
    else this.onContainer(op);
  }

  private onGroup({ name, g, c }: GroupOperation): void {
    const { system } = this.program;
    const group = this.groups[g]!;
    if (name === 'open') this.groups[g] = this.program.group(g);
    else if (name === 'set') group.setContainer(this.containers[c]!.fd);
    else if (name === 'unset') group.unsetContainer();
    else if (name === 'openDevice') {
      const device = group.openDevice(this.host.entries[g]!.name);
      device.writeConfig(4, 2, 6);
      this.devices[g] = device;
    } else if (name === 'close') {
      system.close(group.fd);
      this.groups[g] = null;
    } else {
      system.close(this.devices[g]!.fd);
      this.devices[g] = null;
    }
  }

  private onContainer({ name, c, p, range: { iova, pages } }: ContainerOperation): void {
    const container = this.containers[c]!;
    const hostPasid = this.pasids[p]!;
    const length = pages * PAGE;
    const type = TYPES.get(name);
    if (type !== undefined) container.setIommu(type);
    else if (name === 'map') container.map({ userVa: this.memory, length, iova: iova * PAGE });
    else if (name === 'unmap') container.unmap(iova * PAGE, length);
    else if (name === 'unmapAll') container.unmapAll();
    else if (name === 'bind') container.bindGuestPasid({ hostPasid, pageTable: PAGE, addressWidth: 48 });
    else if (name === 'unbind') container.unbindGuestPasid(hostPasid);
    else container.invalidate({ hostPasid });
  }

  /** Page of memory that DMA to a page of a device reaches, or null. */
  probe(device: Opened['devices'][number], page: bigint, pasid?: number): number | null {
    const { host, memory, program } = this;
    for (let at = 0; at < PAGES; at++) program.memory.store(memory + BigInt(at * PAGE + BYTE), 1, 0n);
    const arrived = dmaWrite(host, device, page * 4096n + BigInt(BYTE), 0x5a, pasid === undefined ? {} : { pasid });
    const hits = Array.from({ length: PAGES }, (_, at) => at).filter((at) => {
      return program.byteAt(memory + BigInt(at * PAGE + BYTE)) === 0x5a;
    });
    if (hits.length !== (arrived === true ? 1 : 0)) throw new Error(`written ${arrived}, pages ${hits}`);
    return hits[0] ?? null;
  }

  /** What a walk of the guest's table in memory leads to, each step of which goes through the container's mappings. */
  walk(model: Model, space: Space): number | null {
    let page = 1;
    for (const shift of [39n, 30n, 21n, 12n]) {
      const at = model.reach(space, page);
      if (at === null) return null;
      const slot = this.memory + BigInt(at * PAGE) + ((GVA >> shift) & 511n) * 8n;
      const entry = this.program.memory.load(slot, 8);
      if ((entry & 1n) === 0n) return null;
      page = Number(entry >> 12n);
    }
    return model.reach(space, page);
  }
}

test('X6 any sequence of calls on groups, containers and guests does what a naive model does, and leaves nothing', () => {
  let host = new ContainerHost();
  fc.assert(
    fc.property(fc.array(fc.tuple(operation, fc.nat(12)), { minLength: 10, maxLength: 40 }), (steps) => {
      if (!isDeepStrictEqual(host.held, NOTHING)) host = new ContainerHost();
      const actor = new Actor(host);
      const model = new Model();
      for (const [op, page] of steps) {
        const wanted = onModel(model, op);
        if (wanted === undefined) continue;
        expect([op, refusal(() => actor.do(op))]).toEqual([op, wanted]);
        const pages = model.containers.flatMap(({ mappings }) => mappings).reduce((sum, { pages: n }) => sum + n, 0);
        const { addressSpace } = actor.program.system.process;
        expect([op, actor.host.held.pins, addressSpace.lockedPages]).toEqual([op, pages, pages]);
        model.groups.forEach(({ device, container, binds }, g) => {
          if (!device) return;
          const space = model.containers[container!]!;
          const own = actor.devices[g]!;
          expect([op, actor.probe(own, BigInt(page))]).toEqual([op, model.reach(space, page)]);
          for (const p of [0, 1]) {
            const target = binds.has(p) ? actor.walk(model, space) : null;
            expect([op, p, actor.probe(own, GVA >> 12n, actor.pasids[p]!)]).toEqual([op, p, target]);
          }
        });
      }
      expect(actor.host.held.binds).toBe(model.groups.reduce((sum, { binds }) => sum + binds.size, 0));
      actor.program.system.exit();
      host.settle();
      expect(host.held).toEqual(NOTHING);
    }),
    { numRuns: 60 },
  );
  expect(host.leftFrames()).toBe(0);
});
