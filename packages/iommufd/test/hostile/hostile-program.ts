/** A program that calls the kernel with whatever comes to its mind, sometimes when memory is short. */

import { ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import { type Process, SysError } from '@iommukit/iommu-core';
import { IommufdClient } from '../../src/clients/iommufd-client.ts';
import type { IommufdContext } from '../../src/context.ts';
import { SystemCalls } from '../../src/files/system-calls.ts';
import { HwptPaging } from '../../src/hwpt.ts';
import { iommufdContextOf } from '../../src/iommufd-file.ts';
import { IOMMU_HWPT_INVALIDATE, IOMMU_IOAS_UNMAP } from '../../src/uapi/iommufd.ts';
import type { HostileMachine } from './hostile-machine.ts';
import { randomArgument } from './random-arguments.ts';
import { fieldValue, type Knowledge, noise } from './random-fields.ts';

/** Errnos that ioctls of /dev/iommu are documented to give. */
const ERRNOS: ReadonlySet<number> = new Set(
  // EPERM ENOENT EIO E2BIG EBADF ENOMEM EFAULT EBUSY EEXIST ENODEV EINVAL EMFILE ENOTTY ENOSPC ERANGE EDEADLK EBADE
  // EOVERFLOW EBADFD EMSGSIZE EOPNOTSUPP EADDRINUSE
  [1, 2, 5, 7, 9, 12, 14, 16, 17, 19, 22, 24, 25, 28, 34, 35, 52, 75, 77, 90, 95, 98],
);

/** Requests that may have done something when they fail. */
const PARTIAL: ReadonlySet<number> = new Set([IOMMU_IOAS_UNMAP, IOMMU_HWPT_INVALIDATE]);

const MEMORY_PAGES = 24;
const DESCRIPTORS_MAX = 40;

export class HostileProgram {
  private readonly host: HostileMachine;
  private readonly process: Process;
  private readonly system: SystemCalls;
  private readonly addresses: bigint[];
  /** The first two are /dev/iommu. */
  private readonly fds: number[];

  constructor(host: HostileMachine) {
    this.host = host;
    const { processes, nodes, machine } = host;
    this.process = processes.spawn({ name: 'hostile', memlock: 256 << 12 });
    this.system = new SystemCalls({ kernel: machine.kernel, processes, process: this.process, nodes });
    const { system } = this;
    const memfd = system.memfd('pages', 16 << 12);
    this.fds = [system.open('/dev/iommu'), system.open('/dev/iommu'), memfd, system.eventfd()];
    const pages = system.mmap({ length: MEMORY_PAGES << 12 });
    const readOnly = system.mmap({ length: 4 << 12, protection: ACCESS_READ });
    const file = system.mmap({ length: 16 << 12, fd: memfd });
    const end = pages + BigInt(MEMORY_PAGES << 12);
    this.addresses = Array.from({ length: MEMORY_PAGES }, (_, page) => pages + BigInt(page << 12));
    this.addresses.push(readOnly, readOnly + 0x1000n, file, file + 0x3000n, pages + 0x1ffcn, end - 8n, end);
    if (host.random.chance(50)) this.behave();
  }

  /** Begins as a VMM does: the function sends with PASID 1 through a table in the program's memory, which is empty. */
  private behave(): void {
    const { host, system, fds } = this;
    const client = new IommufdClient(system, fds[0]!);
    const device = host.bind(iommufdContextOf(system.file(fds[0]!)));
    const ioasId = client.ioasAlloc();
    client.ioasMap({ ioasId, userVa: this.addresses[0]!, length: MEMORY_PAGES << 12, iova: 0n });
    const parentId = client.hwptAllocPaging({ deviceId: device.id, ioasId, nestParent: true, pasid: true });
    const { id: faultId, fd } = client.faultQueueAlloc();
    fds.push(fd);
    const table = { deviceId: device.id, parentId, pageTable: 0x1000n, addressWidth: 48, pasid: true, faultId };
    const nested = client.hwptAllocVtdS1(table);
    system.call('attach', () => device.attach(nested, 1));
  }

  /** One call, or what others do meanwhile. @throws what no program may see: anything but an errno that is documented */
  step(): void {
    const { random } = this.host;
    const what = random.below(100);
    if (what < 74) this.ioctl();
    else if (what < 82) this.host.attempt(() => this.otherCall());
    else if (what < 92) this.drive();
    else this.host.dma();
  }

  /** Ends by closing what is open in any order, or all at once, before or after the driver lets go of the function. */
  end(): void {
    const { host, system } = this;
    const { random } = host;
    for (const fd of this.fds) if (random.chance(50)) host.attempt(() => system.close(fd));
    if (random.chance(50)) {
      system.exit();
      host.unbindAll();
    } else {
      host.unbindAll();
      system.exit();
    }
  }

  private get context(): IommufdContext {
    return iommufdContextOf(this.system.file(this.fds[this.host.random.chance(90) ? 0 : 1]!));
  }

  private known(context: IommufdContext): Knowledge {
    const objects = context.objects.all().map((object) => {
      const parent = object instanceof HwptPaging && object.domain.nestParent;
      return { id: object.id, type: parent ? 'hwpt-parent' : object.type };
    });
    return { objects, fds: this.fds, addresses: this.addresses };
  }

  private drive(): void {
    const { host, context } = this;
    const nested = context.objects.all().filter(({ type }) => type === 'hwpt-nested');
    const id =
      nested.length > 0 && host.random.chance(50)
        ? host.random.pick(nested).id
        : Number(fieldValue(host.random, 'ptId', this.known(context)));
    host.attempt(() => host.driver(context, id));
  }

  private ioctl(): void {
    const { host, system } = this;
    const { random } = host;
    const target = host.targets.pick(random);
    let { request } = target;
    let argument = random.pick(this.addresses);
    const kind = random.below(100);
    if (kind < 80) {
      const { bytes, data } = randomArgument(random, target, this.known(this.context));
      if (random.chance(70)) this.store(data.address, data.bytes);
      this.store(argument, bytes);
    } else if (kind < 90) {
      const bytes = Uint8Array.from({ length: 64 }, () => random.bits());
      this.store(argument, bytes);
    } else if (kind < 95) {
      request = random.chance(70) ? 0x3b00 | random.pick([random.below(256), 0x65, 0x66]) : random.bits();
      if (random.chance(50)) argument = BigInt(random.below(12));
    } else argument = noise(random);
    const fd = random.chance(85) ? this.fds[0]! : random.pick(this.fds);
    const name = `request 0x${(request >>> 0).toString(16)}`;
    const starved = random.chance(5);
    const before = (starved || random.chance(2)) && !PARTIAL.has(request) && host.quiet ? this.snapshot() : null;
    const { failpoints } = host.machine.kernel;
    if (starved) failpoints.arm(1 + random.below(6));
    const result = system.ioctl(fd, request, argument);
    failpoints.arm(0);
    host.count(result);
    if (!Number.isInteger(result) || (result < 0 && !ERRNOS.has(-result))) throw new Error(`${name} gave ${result}`);
    if (result >= 0 && request === target.request) {
      host.note(target.name);
      this.findDescriptors();
    }
    if (before === null || result >= 0) return;
    const after = this.snapshot();
    if (before !== after) throw new Error(`${name} gave ${result} and changed ${before} to ${after}`);
  }

  /** Descriptors that calls have made. */
  private findDescriptors(): void {
    for (let fd = 0; fd < DESCRIPTORS_MAX; fd++) {
      if (this.fds.includes(fd)) continue;
      try {
        this.system.file(fd);
        this.fds.push(fd);
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
      }
    }
  }

  private otherCall(): void {
    const { system, fds, addresses } = this;
    const { random } = this.host;
    // Where the fault queue is of a program that has begun well.
    const fd = random.chance(25) && fds.length > 4 ? fds[4]! : random.pick(fds);
    const position = random.chance(80) ? null : noise(random);
    const read = (): number => system.read(fd, new Uint8Array(random.pick([0, 1, 8, 39, 40, 80, 400, 400])), position);
    const calls: (() => void)[] = [
      read,
      read,
      () => system.write(fd, this.randomWords(), position),
      () => system.write(fd, this.randomWords(), position),
      () => system.poll(fd),
      () => {
        if (fds.length < DESCRIPTORS_MAX) fds.push(random.chance(50) ? system.dup(fd) : system.memfd('more', 1 << 14));
      },
      () => {
        // The first two stay, or nothing would be left to call.
        const index = fds.lastIndexOf(fd);
        if (index < 2) return;
        fds.splice(index, 1);
        system.close(fd);
      },
      () => system.mmap({ length: noise(random), fd, offset: noise(random), shared: random.chance(80) }),
      () => this.remap(random.below(addresses.length)),
      () => {
        const child = system.fork();
        this.host.count(child.ioctl(fd, this.host.targets.pick(random).request, random.pick(addresses)));
        child.exit();
      },
    ];
    random.pick(calls)();
  }

  /** Answers to page requests, or what looks like them. */
  private randomWords(): Uint8Array {
    const { random } = this.host;
    const word = (): number => (random.chance(95) ? random.below(3) : random.bits());
    const words = Uint32Array.from({ length: random.pick([0, 1, 2, 2, 2, 4, 20]) }, word);
    return new Uint8Array(words.buffer).subarray(random.chance(95) ? 0 : random.below(2));
  }

  /** Another page takes the place of one in the memory. */
  private remap(index: number): void {
    const { random } = this.host;
    this.system.munmap(this.addresses[index]! & ~0xfffn, 4096);
    const protection = random.chance(80) ? ACCESS_READ | ACCESS_WRITE : ACCESS_READ;
    this.addresses[index] = this.system.mmap({ length: 4096, protection }) + random.pick([0n, 0n, 8n, 4088n]);
  }

  private store(address: bigint, bytes: Uint8Array): void {
    try {
      this.process.addressSpace.write(address, bytes);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
    }
  }

  private snapshot(): string {
    return `${this.host.snapshot()} ${this.system.openDescriptors}`;
  }
}
