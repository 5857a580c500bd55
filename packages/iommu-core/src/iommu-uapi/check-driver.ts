import type { Device } from '../device.ts';
import { SysError } from '../errno.ts';

/** What every call on a guest's PASID asks first. @throws {SysError} ENODEV the driver has no PASIDs */
export function checkDriver({ driver }: Device, call: string): void {
  if (driver.attachPasid === null) throw new SysError('ENODEV', call, `${driver.name} has no PASIDs`);
}
