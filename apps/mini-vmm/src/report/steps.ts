/** The eight steps of shared virtual addressing through nested translation, found in the trace of a run. */

import type { InterfaceKind } from '../vmm/interfaces/open.ts';
import type { TraceEntry } from './recorder.ts';
import { type Ids, planSteps, type StepPlan } from './step-plan.ts';

export type Step = {
  readonly title: string;
  /** What was seen; null when the step did not happen. */
  readonly observed: string | null;
  /** The event that did not come, for a step that did not happen. */
  readonly missing: string | null;
};

/** Follows the steps through a trace that is given entry by entry. */
export class StepMatcher {
  private readonly plan: readonly StepPlan[];
  private readonly ids: Ids = {
    pasid: -1,
    hostPasid: -1,
    cr3: -1n,
    parent: -1,
    hwpt: -1,
    ioasid: -1,
    instruction: '',
    source: -1n,
    group: -1,
    cookie: -1,
    page: -1n,
    unmapped: -1n,
    hostEntries: new Set(),
  };
  private readonly observations: string[] = [];
  /** Links matched of the step that is looked for. */
  private matched = 0;

  /** For a run with an interface of the kernel's. */
  constructor(kind: InterfaceKind) {
    this.plan = planSteps(kind);
  }

  feed({ layer, event }: TraceEntry): void {
    const { hostEntries } = this.ids;
    if (layer === 'core' && event.name === 'pasid_entry_set') hostEntries.add(event['pasid']);
    if (layer === 'core' && event.name === 'pasid_entry_clear') hostEntries.delete(event['pasid']);
    const plan = this.plan[this.observations.length];
    const expected = plan?.links[this.matched];
    if (plan === undefined || expected === undefined || expected.layer !== layer || expected.name !== event.name)
      return;
    const learnt = expected.match(event, this.ids);
    if (learnt === false) return;
    Object.assign(this.ids, learnt);
    this.matched++;
    if (this.matched < plan.links.length) return;
    this.observations.push(plan.observed(this.ids));
    this.matched = 0;
  }

  /** All eight, whether they happened or not. */
  get steps(): readonly Step[] {
    const { plan, observations, matched } = this;
    return plan.map(({ title, links }, index) => {
      const observed = observations[index] ?? null;
      const next = links[index === observations.length ? matched : 0]!;
      return { title, observed, missing: observed === null ? `${next.layer} ${next.name}` : null };
    });
  }

  get complete(): boolean {
    return this.observations.length === this.plan.length;
  }
}
