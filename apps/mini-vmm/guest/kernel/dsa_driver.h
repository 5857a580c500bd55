/* dsa_driver.c: the accelerator. Queue 0 is shared (ENQCMD), each other one is leased to one process at a time. */

#pragma once

#include "types.h"

/* The processor has ENQCMD. */
extern bool dsa_enqcmd;
/* Software errors that the device has reported. */
extern u64 dsa_errors;

/* Finds and enables the PCI function; gives its requester id and the width of its PASIDs. */
void dsa_find(u16 *rid, u32 *pasid_bits);
/* Configures and enables the device; after vtd_init. */
void dsa_init(void);
/* Physical address of the submission page of a queue. */
u64 dsa_portal(u32 queue);
u32 dsa_dedicated_entries(void);
/* A dedicated queue whose descriptors carry `pasid`, or 0 when all are leased. */
u32 dsa_lease_queue(u32 pasid);
/* Waits until the queue is empty and takes it back. */
void dsa_return_queue(u32 queue);
/* Waits until no descriptor with `pasid` is left. */
void dsa_drain_pasid(u32 pasid);
/* Reports and clears the device's software error. */
void dsa_report_errors(void);
