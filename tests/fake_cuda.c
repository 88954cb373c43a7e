// A CUDA runtime with GPUs that do nothing, preloaded where there is none: enough for autograd and
// random states under FakeTensorMode. FAKE_GPUS is their number. The include is NVIDIA's header.
#include <driver_types.h>
#include <stdlib.h>
#include <string.h>

static int device = 0;
static long handle = 0;

int cudaGetDeviceCount(int *n) {
    char *s = getenv("FAKE_GPUS");
    *n = s ? atoi(s) : 1;
    return 0;
}
int cudaGetDevice(int *d) { *d = device; return 0; }
int cudaSetDevice(int d) { device = d; return 0; }
int cudaDeviceSynchronize(void) { return 0; }
int cudaDeviceGetAttribute(int *v, int which, int d) {
    *v = which == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
    return 0;
}
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0, *greatest = -5;
    return 0;
}
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaMemGetInfo(size_t *free, size_t *total) {
    *free = 80000000000ul, *total = 85000000000ul;
    return 0;
}
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }

int cudaStreamCreateWithPriority(void **s, unsigned flags, int priority) {
    *s = (void *)(handle += 16);
    return 0;
}
int cudaStreamGetPriority(void *s, int *priority) { *priority = 0; return 0; }
int cudaStreamIsCapturing(void *s, int *status) { *status = 0; return 0; }
int cudaStreamQuery(void *s) { return 0; }
int cudaStreamSynchronize(void *s) { return 0; }
int cudaStreamWaitEvent(void *s, void *event, unsigned flags) { return 0; }
int cudaThreadExchangeStreamCaptureMode(int *mode) { return 0; }

int cudaEventCreateWithFlags(void **event, unsigned flags) {
    *event = (void *)(handle += 16);
    return 0;
}
int cudaEventDestroy(void *event) { return 0; }
int cudaEventElapsedTime(float *ms, void *start, void *end) { *ms = 1; return 0; }
int cudaEventQuery(void *event) { return 0; }
int cudaEventRecord(void *event, void *s) { return 0; }
int cudaEventRecordWithFlags(void *event, void *s, unsigned flags) { return 0; }
int cudaEventSynchronize(void *event) { return 0; }

int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) {
    *flags = 0, *active = 0;
    return 0;
}
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "NVIDIA H100 that is not there");
    p->major = 9, p->warpSize = 32, p->multiProcessorCount = 132;
    p->totalGlobalMem = 85000000000ul, p->l2CacheSize = 50 << 20;
    p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = 232448;
    p->sharedMemPerMultiprocessor = 233472;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    return 0;
}
