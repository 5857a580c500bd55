/**
 * A root complex without a translation agent: every address is physical, and what only ATS knows of is an unsupported
 * request (PCI Express Base Specification 6.0, section 10.1).
 */

import { joinPage } from '../u64.ts';
import {
  AT_UNTRANSLATED,
  COMPLETION_SUCCESS,
  COMPLETION_UNSUPPORTED_REQUEST,
  type InterruptSink,
  type TranslationAgent,
  type TranslationCompletion,
} from './transaction.ts';

export class IdentityAgent implements TranslationAgent {
  pfn = 0;
  readonly ats: TranslationCompletion = {
    pfn: 0,
    sizeLg2: 12,
    access: 0,
    global: false,
    noSnoop: false,
    untranslatedOnly: false,
  };
  private readonly interrupts: InterruptSink;

  constructor(interrupts: InterruptSink) {
    this.interrupts = interrupts;
  }

  translate(
    _rid: number,
    _pasid: number,
    _access: number,
    addressType: number,
    pageHigh: number,
    pageLow: number,
  ): number {
    this.pfn = joinPage(pageHigh, pageLow);
    return addressType === AT_UNTRANSLATED ? COMPLETION_SUCCESS : COMPLETION_UNSUPPORTED_REQUEST;
  }

  requestTranslation(): number {
    return COMPLETION_UNSUPPORTED_REQUEST;
  }

  requestPage(): void {}

  writeInterrupt(_rid: number, addressLow: number, _addressHigh: number, data: number): void {
    this.interrupts.deliver(addressLow, data);
  }
}
