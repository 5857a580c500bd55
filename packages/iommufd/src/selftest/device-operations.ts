/** Operations on mock devices: making and attaching them, their caches, and events that hardware would report. */

import { hex, NO_PASID } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import { BoundDevice } from '../bound-device.ts';
import type { IommufdContext } from '../context.ts';
import { HwptNested, HwptPaging } from '../hwpt.ts';
import type { IommufdCaller, Outcome } from '../ioctl/command.ts';
import { IommufdObject } from '../object-table.ts';
import { type MockDevice, mockDeviceOf } from './mock-device.ts';
import { type Operation, operation } from './test-cmd.ts';
import { type MockBus, makeTestDevice, TestDevice } from './test-device.ts';
import * as uapi from './uapi.ts';

const CALL = 'IOMMU_TEST_CMD';

type MadeDevice = { outStdevId: number; outHwptId: number; outIdevId: number };

export function deviceOperations(bus: MockBus): [number, Operation][] {
  const make = ({ context }: IommufdCaller, ptId: number, cmd: MadeDevice, flags: number): Outcome => {
    const { object, hwptId } = makeTestDevice(context, bus, ptId, flags);
    cmd.outStdevId = object.id;
    cmd.outHwptId = hwptId;
    cmd.outIdevId = object.bound.id;
    return { undo: () => context.objects.destroy(object.id) };
  };
  return [
    [uapi.IOMMU_TEST_OP_MOCK_DOMAIN, operation('mockDomain', (caller, id, cmd) => make(caller, id, cmd, 0))],
    [
      uapi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
      operation('mockDomainFlags', (caller, id, cmd) => make(caller, id, cmd, cmd.devFlags)),
    ],
    [
      uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
      operation('mockDomainReplace', ({ context }, id, cmd) => {
        cmd.ptId = testDevice(context, id).bound.replace(cmd.ptId);
        return {};
      }),
    ],
    [
      uapi.IOMMU_TEST_OP_PASID_ATTACH,
      operation('pasidAttach', ({ context }, id, cmd) => {
        const { bound } = testDevice(context, id);
        const pasid = wirePasid(cmd.pasid);
        cmd.ptId = bound.attach(cmd.ptId, pasid);
        return { undo: () => bound.detach(pasid) };
      }),
    ],
    [
      uapi.IOMMU_TEST_OP_PASID_REPLACE,
      operation('pasidReplace', ({ context }, id, cmd) => {
        cmd.ptId = testDevice(context, id).bound.replace(cmd.ptId, wirePasid(cmd.pasid));
        return {};
      }),
    ],
    [
      uapi.IOMMU_TEST_OP_PASID_DETACH,
      operation('pasidDetach', ({ context }, id, { pasid }) => {
        testDevice(context, id).bound.detach(wirePasid(pasid));
        return undefined;
      }),
    ],
    [
      uapi.IOMMU_TEST_OP_PASID_CHECK_HWPT,
      operation('pasidCheck', ({ context }, id, { pasid, hwptId }) => {
        checkAttached(context, id, wirePasid(pasid), hwptId);
        return undefined;
      }),
    ],
    [
      uapi.IOMMU_TEST_OP_DEV_CHECK_CACHE,
      operation('checkDevCache', ({ context }, id, cmd) => {
        const { cache } = mockDevice(context, id);
        if (cmd.id < cache.length && cache[cmd.id] === cmd.cache) return undefined;
        throw new SysError('EINVAL', CALL, `word ${cmd.id} of the cache is not ${hex(cmd.cache)}`);
      }),
    ],
    [
      uapi.IOMMU_TEST_OP_TRIGGER_IOPF,
      operation('triggerIopf', ({ context }, _id, { devId, pasid, grpid, perm, addr }) => {
        const { device } = context.objects.get(devId, BoundDevice);
        mockDeviceOf(device);
        const where = { pasid: wirePasid(pasid), group: grpid, address: addr };
        // Whether anybody takes it is for the core to say, and to answer; there is no hardware to hear of it.
        ignoreRefusal(() => device.faults.report({ ...where, access: perm, last: true }));
        return undefined;
      }),
    ],
    [
      uapi.IOMMU_TEST_OP_TRIGGER_VEVENT,
      operation('triggerVevent', ({ context }, _id, { devId }) => {
        const { name, virtual } = mockDevice(context, devId);
        if (virtual === null || virtual.virtId === 0n) {
          throw new SysError('ENOENT', CALL, `${name} is attached to nothing of a vIOMMU`);
        }
        const layout = uapi.iommuViommuEventSelftest;
        const data = new Uint8Array(layout.size);
        layout.write({ virtId: Number(BigInt.asUintN(32, virtual.virtId)) }, data);
        virtual.viommu.reportEvent(uapi.IOMMU_VEVENTQ_TYPE_SELFTEST, data);
        return undefined;
      }),
    ],
  ];
}

/** The interface's PASID 0 stands for requests without PASID. */
function wirePasid(pasid: number): number {
  return pasid === 0 ? NO_PASID : pasid;
}

/** @throws {SysError} ENOENT */
function testDevice(context: IommufdContext, id: number): TestDevice {
  return context.objects.get(id, TestDevice);
}

/** @throws {SysError} ENOENT no device; EINVAL it is no mock device */
function mockDevice(context: IommufdContext, id: number): MockDevice {
  return mockDeviceOf(context.objects.get(id, BoundDevice).device);
}

/** `hwptId` is 0 when nothing should be attached. @throws {SysError} ENOENT; EINVAL */
function checkAttached(context: IommufdContext, id: number, pasid: number, hwptId: number): void {
  const { group } = testDevice(context, id).bound.device;
  const handle = pasid === NO_PASID ? group.ridHandle : (group.pasidHandles.get(pasid) ?? null);
  const attached = handle?.domain ?? null;
  if (hwptId === 0) {
    if (attached === null) return;
    throw new SysError('EINVAL', CALL, `domain ${attached.id} is attached at PASID ${pasid}`);
  }
  const hwpt = context.objects.get(hwptId, IommufdObject);
  if ((hwpt instanceof HwptPaging || hwpt instanceof HwptNested) && hwpt.domain === attached) return;
  throw new SysError('EINVAL', CALL, `${hwpt.type} ${hwptId} is not attached at PASID ${pasid}`);
}

function ignoreRefusal(action: () => void): void {
  try {
    action();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}
