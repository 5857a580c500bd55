/** The program cannot be run, for a reason that the user can do something about. */
export class UsageError extends Error {}
