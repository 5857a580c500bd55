/** What the core asks of its host. Addresses are guest physical. */

@external('host', 'readBus')
export declare function readBus(gpa: u64, width: u32): u64;

@external('host', 'writeBus')
export declare function writeBus(gpa: u64, width: u32, value: u64): void;

/** A direct store of the 64 bytes at State.DIRECT. */
@external('host', 'storeDirect')
export declare function storeDirect(gpa: u64): void;

/** An enqueue store of the 64 bytes at State.DIRECT. 1: accepted. */
@external('host', 'enqueueDirect')
export declare function enqueueDirect(gpa: u64): u32;

@external('host', 'readPort')
export declare function readPort(port: u32, width: u32): u32;

@external('host', 'writePort')
export declare function writePort(port: u32, width: u32, value: u32): void;

/** Highest deliverable vector, or -1. */
@external('host', 'pendingInterrupt')
export declare function pendingInterrupt(): i32;

@external('host', 'acknowledgeInterrupt')
export declare function acknowledgeInterrupt(vector: u32): void;

@external('host', 'readTaskPriority')
export declare function readTaskPriority(): u32;

@external('host', 'writeTaskPriority')
export declare function writeTaskPriority(priority: u32): void;

/** A RAM frame with flags was written. */
@external('host', 'noteWrite')
export declare function noteWrite(pfn: u32): void;

/** The host PASID of a guest PASID; -1 when the table has no entry, -2 when the command is to be answered with Retry. */
@external('host', 'translatePasid')
export declare function translatePasid(pasid: u32): i32;
