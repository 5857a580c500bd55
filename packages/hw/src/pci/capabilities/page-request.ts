/**
 * The Page Request Interface: its extended capability and the groups that are outstanding (PCI Express Base
 * Specification 6.0, sections 10.4 and 10.5.2). A PF has one; its VFs send through it with their own requester ids.
 *
 * A request message holds one unit of the allocation until its group is answered. Group indices are drawn from one
 * space for the PF and its VFs.
 */

import { addressHigh, addressLow, joinU64 } from '../../u64.ts';
import type { ConfigSpace } from '../config-space.ts';
import type { PciFunction } from '../function.ts';
import {
  ACCESS_READ,
  ACCESS_WRITE,
  NO_PASID,
  type PageGroupResponse,
  type PageRequest,
  PRG_INVALID_REQUEST,
  PRG_RESPONSE_FAILURE,
  PRG_SUCCESS,
} from '../transaction.ts';
import type { Capability } from './capability.ts';

const CONTROL = 0x04;
const STATUS = 0x06;
const CAPACITY = 0x08;
const ALLOCATION = 0x0c;

const CONTROL_ENABLE = 1 << 0;
const CONTROL_RESET = 1 << 1;
const STATUS_RESPONSE_FAILURE = 1 << 0;
const STATUS_UNEXPECTED_INDEX = 1 << 1;
const STATUS_STOPPED = 1 << 8;
const STATUS_PASID_REQUIRED = 1 << 15;

const GROUPS = 512;

/** Hears the PRG_ code of a group's response; PRG_RESPONSE_FAILURE too when no response can come any more. */
export type PageResponseHandler = (code: number) => void;

type Group = {
  readonly fn: PciFunction;
  readonly pasid: number;
  readonly onResponse: PageResponseHandler;
  requests: number;
  /** The last request has been sent. */
  complete: boolean;
};

export type PageRequestOptions = {
  /** Requests that can be outstanding at most. */
  capacity: number;
  /** Responses carry the PASID of their requests (PRG Response PASID Required); true by default. */
  responsePasid?: boolean;
};

export class PageRequestInterface implements Capability {
  readonly id = 0x13;
  readonly extended = true;
  readonly size = 16;
  /** The function may send requests, as far as its allocation goes. */
  enabled = false;
  private readonly capacity: number;
  private readonly responsePasid: boolean;
  private readonly groups: (Group | null)[] = new Array<Group | null>(GROUPS).fill(null);
  private readonly message: PageRequest = {
    rid: 0,
    pasid: NO_PASID,
    access: 0,
    last: false,
    group: 0,
    pageHigh: 0,
    pageLow: 0,
  };
  private config!: ConfigSpace;
  private offset = 0;
  private nextGroup = 0;
  private requests = 0;
  /** A Response Failure came: nothing is sent or heard until software enables the interface again. */
  private failed = false;

  constructor(options: PageRequestOptions) {
    this.capacity = options.capacity;
    this.responsePasid = options.responsePasid ?? true;
  }

  /** Request messages whose groups have no response yet. */
  get outstanding(): number {
    return this.requests;
  }

  /** Requests that can be sent now. */
  get available(): number {
    if (!this.enabled || this.failed) return 0;
    const allocation = this.config.read(this.offset + ALLOCATION, 4);
    return Math.max(0, Math.min(allocation, this.capacity) - this.requests);
  }

  install(fn: PciFunction, offset: number): void {
    const config = fn.config;
    this.config = config;
    this.offset = offset;
    fn.pri = this;
    config.define(offset + CONTROL, 2, { writable: CONTROL_ENABLE | CONTROL_RESET });
    config.define(offset + STATUS, 2, {
      value: STATUS_STOPPED | (this.responsePasid ? STATUS_PASID_REQUIRED : 0),
      clearable: STATUS_RESPONSE_FAILURE | STATUS_UNEXPECTED_INDEX,
    });
    config.define(offset + CAPACITY, 4, { value: this.capacity });
    config.define(offset + ALLOCATION, 4, { writable: -1 });
    config.onWrite(offset + CONTROL, 2, () => this.updateControl());
  }

  reset(): void {
    this.groups.fill(null);
    this.requests = 0;
    this.enabled = false;
    this.failed = false;
    this.updateStopped();
  }

  /**
   * Opens a group for requests of `fn` with one PASID (or NO_PASID).
   * Gives its index, or -1 when `fn` may not send a request now or every index is taken.
   */
  open(fn: PciFunction, pasid: number, onResponse: PageResponseHandler): number {
    if (this.available === 0 || !fn.upstream.mayRequest(pasid, 0)) return -1;
    for (let tried = 0; tried < GROUPS; tried++) {
      const index = this.nextGroup;
      this.nextGroup = (index + 1) % GROUPS;
      if (this.groups[index] === null) {
        this.groups[index] = { fn, pasid, onResponse, requests: 0, complete: false };
        return index;
      }
    }
    return -1;
  }

  /**
   * Sends a request of group `index` for the page (`pageHigh`, `pageLow`); `access` holds ACCESS_ bits, at least
   * READ or WRITE. False when it cannot be sent: no such open group, no allocation left, or not allowed.
   */
  send(index: number, access: number, pageHigh: number, pageLow: number, last: boolean): boolean {
    const group = this.groups[index];
    if (group == null || group.complete || this.available === 0 || !group.fn.upstream.mayRequest(group.pasid, access)) {
      return false;
    }
    if ((access & (ACCESS_READ | ACCESS_WRITE)) === 0) return false;
    group.requests++;
    group.complete = last;
    this.requests++;
    this.transmit(group.fn, group.pasid, access, index, pageHigh, pageLow, last);
    return true;
  }

  /** A group of one request. Gives its index, or -1 when it cannot be sent. */
  request(
    fn: PciFunction,
    pasid: number,
    access: number,
    pageHigh: number,
    pageLow: number,
    onResponse: PageResponseHandler,
  ): number {
    const index = this.open(fn, pasid, onResponse);
    if (index < 0) return -1;
    if (this.send(index, access, pageHigh, pageLow, true)) return index;
    this.groups[index] = null;
    return -1;
  }

  /**
   * Sends a stop marker (section 10.4.1.2.1): all requests of `fn` with `pasid` have been sent before it. It has no
   * response and needs no allocation. False when it cannot be sent.
   */
  stopMarker(fn: PciFunction, pasid: number): boolean {
    if (!this.enabled || this.failed || pasid === NO_PASID || !fn.upstream.mayRequest(pasid, 0)) return false;
    this.transmit(fn, pasid, 0, 0, 0, 0, true);
    return true;
  }

  /** A response for `fn` arrives. */
  respond(fn: PciFunction, response: PageGroupResponse): void {
    if (this.failed) return;
    const group = this.groups[response.group];
    const matches =
      group != null &&
      group.fn === fn &&
      group.requests > 0 &&
      (!this.responsePasid || group.pasid === NO_PASID || group.pasid === response.pasid);
    if (!matches) {
      this.setStatus(STATUS_UNEXPECTED_INDEX, 0);
      return;
    }
    if (response.code === PRG_SUCCESS || response.code === PRG_INVALID_REQUEST) {
      this.close(response.group);
      group.onResponse(response.code);
      return;
    }
    this.failed = true;
    this.setStatus(STATUS_RESPONSE_FAILURE, 0);
    this.failGroups();
  }

  /** Forgets the groups of a function that is reset or gone; nobody is told. */
  dropGroupsOf(fn: PciFunction): void {
    for (let index = 0; index < GROUPS; index++) if (this.groups[index]?.fn === fn) this.close(index);
  }

  private transmit(
    fn: PciFunction,
    pasid: number,
    access: number,
    group: number,
    pageHigh: number,
    pageLow: number,
    last: boolean,
  ): void {
    const fabric = fn.fabric!;
    if (fabric.trace.enabled) {
      const iova = joinU64(addressLow(pageLow), addressHigh(pageLow, pageHigh));
      fabric.trace.emit({ name: 'page_request', rid: fn.rid, pasid, group, iova, access, last });
    }
    const message = this.message;
    message.rid = fn.rid;
    message.pasid = pasid;
    message.access = access;
    message.last = last;
    message.group = group;
    message.pageHigh = pageHigh;
    message.pageLow = pageLow;
    fabric.agent.requestPage(message);
  }

  private updateControl(): void {
    const control = this.config.read(this.offset + CONTROL, 2);
    const enabled = (control & CONTROL_ENABLE) !== 0;
    this.config.set(this.offset + CONTROL, 2, control & ~CONTROL_RESET);
    if (enabled && !this.enabled) {
      this.failed = false;
      this.setStatus(0, STATUS_RESPONSE_FAILURE | STATUS_UNEXPECTED_INDEX);
    }
    this.enabled = enabled;
    if ((control & CONTROL_RESET) !== 0 && !enabled) this.failGroups();
    this.updateStopped();
  }

  private failGroups(): void {
    for (let index = 0; index < GROUPS; index++) {
      const group = this.groups[index];
      if (group == null) continue;
      this.close(index);
      group.onResponse(PRG_RESPONSE_FAILURE);
    }
  }

  private close(index: number): void {
    this.requests -= this.groups[index]!.requests;
    this.groups[index] = null;
    this.updateStopped();
  }

  /** Stopped is set while the interface is disabled and every request has been answered. */
  private updateStopped(): void {
    if (!this.enabled && this.requests === 0) this.setStatus(STATUS_STOPPED, 0);
    else this.setStatus(0, STATUS_STOPPED);
  }

  private setStatus(set: number, clear: number): void {
    const at = this.offset + STATUS;
    this.config.set(at, 2, (this.config.read(at, 2) & ~clear) | set);
  }
}
