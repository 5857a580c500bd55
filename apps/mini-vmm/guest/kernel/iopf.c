/*
 * Page faults of the device: each request of a group is a fault of the process that its PASID stands for, decided by
 * the same rules as a fault of the processor; the group is answered with its last request.
 */

#include "iopf.h"

#include "process.h"
#include "vtd.h"

#define GROUPS 512

u64 iopf_groups, iopf_responses;

/* Groups of which a request was refused; the group's later requests do not save it. */
static bool refused[GROUPS];

static bool serve(struct process *process, const struct page_request *request) {
  if (!process || request->privileged || request->execute) return false;
  if (request->write && !process_fault(process, request->address, REGION_WRITE)) return false;
  return !request->read || process_fault(process, request->address, REGION_READ);
}

void iopf_serve(void) {
  struct page_request request;
  vtd_acknowledge_requests();
  while (vtd_next_request(&request)) {
    /* Neither read nor write: the mark that a PASID's requests are over, which has no answer. */
    if (!request.read && !request.write) continue;
    struct process *process = request.has_pasid ? process_of_pasid(request.pasid) : NULL;
    if (!serve(process, &request)) refused[request.group] = true;
    if (!request.last) continue;
    iopf_groups++;
    if (process) process->page_requests++;
    vtd_respond(&request, refused[request.group] ? RESPONSE_INVALID : RESPONSE_SUCCESS);
    iopf_responses++;
    refused[request.group] = false;
  }
}
