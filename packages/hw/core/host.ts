/** What the core asks of its host. Addresses are guest physical. */

// @ts-ignore: decorator
@external('host', 'readBus')
export declare function readBus(gpa: u64, width: u32): u64;

// @ts-ignore: decorator
@external('host', 'writeBus')
export declare function writeBus(gpa: u64, width: u32, value: u64): void;

/** A direct store of the 64 bytes at State.DIRECT. */
// @ts-ignore: decorator
@external('host', 'storeDirect')
export declare function storeDirect(gpa: u64): void;

/** An enqueue store of the 64 bytes at State.DIRECT. 1: accepted. */
// @ts-ignore: decorator
@external('host', 'enqueueDirect')
export declare function enqueueDirect(gpa: u64): u32;

// @ts-ignore: decorator
@external('host', 'readPort')
export declare function readPort(port: u32, width: u32): u32;

// @ts-ignore: decorator
@external('host', 'writePort')
export declare function writePort(port: u32, width: u32, value: u32): void;

/** Highest deliverable vector, or -1. */
// @ts-ignore: decorator
@external('host', 'pendingInterrupt')
export declare function pendingInterrupt(): i32;

// @ts-ignore: decorator
@external('host', 'acknowledgeInterrupt')
export declare function acknowledgeInterrupt(vector: u32): void;

// @ts-ignore: decorator
@external('host', 'readTaskPriority')
export declare function readTaskPriority(): u32;

// @ts-ignore: decorator
@external('host', 'writeTaskPriority')
export declare function writeTaskPriority(priority: u32): void;

/** A RAM frame with flags was written. */
// @ts-ignore: decorator
@external('host', 'noteWrite')
export declare function noteWrite(pfn: u32): void;

/** The host PASID of a guest PASID; -1 when the table has no entry, -2 when the command is to be answered with Retry. */
// @ts-ignore: decorator
@external('host', 'translatePasid')
export declare function translatePasid(pasid: u32): i32;
