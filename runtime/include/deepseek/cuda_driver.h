// The CUDA driver, opened at run time: every entry point that we use stands in one table.
//
// Types and constants are those of CUDA's own ABI, declared here so that nothing of CUDA is needed
// to build. The library is libcuda.so.1, or what DS_CUDA_DRIVER names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace deepseek::cuda {

using Result = int;
using Address = unsigned long long;
using ContextHandle = struct CUctx_st*;
using ModuleHandle = struct CUmod_st*;
using FunctionHandle = struct CUfunc_st*;
using StreamHandle = struct CUstream_st*;
using EventHandle = struct CUevent_st*;
using GraphHandle = struct CUgraph_st*;
using GraphNode = struct CUgraphNode_st*;
using GraphExec = struct CUgraphExec_st*;

struct Uuid {
  char bytes[16];
};

struct KernelNode {
  FunctionHandle function;
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  void** parameters;
  void** extra;
  void* kernel;  // in place of a function
  ContextHandle context;
};

enum : Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kStubLibrary = 34,
  kNoDevice = 100,
  kInvalidImage = 200,
  kNoBinaryForGpu = 209,
  kEccUncorrectable = 214,
  kPeerAccessUnsupported = 217,
  kInvalidPtx = 218,
  kNvlinkUncorrectable = 220,
  kUnsupportedPtxVersion = 222,
  kContained = 226,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kLaunchTimeout = 702,
  kPeerAccessAlreadyEnabled = 704,
  kContextIsDestroyed = 709,
  kAssert = 710,
  kHardwareStackError = 714,
  kIllegalInstruction = 715,
  kMisalignedAddress = 716,
  kInvalidAddressSpace = 717,
  kInvalidPc = 718,
  kLaunchFailed = 719,
  kSystemDriverMismatch = 803,
  kUnknown = 999,
};

enum : int {
  kMaxThreadsPerBlock = 1,
  kSharedMemoryPerBlock = 8,
  kWarpSize = 10,
  kMultiprocessors = 16,
  kIntegrated = 18,
  kL2Bytes = 38,
  kMaxThreadsPerMultiprocessor = 39,
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kSharedMemoryPerMultiprocessor = 81,
  kRegistersPerMultiprocessor = 82,
  kSharedMemoryPerBlockOptIn = 97,
  kFunctionMaxDynamicShared = 8,
};

constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventDisableTiming = 2;
constexpr unsigned kHostPortable = 1;
constexpr int kCaptureThreadLocal = 1;

// X(member, exported name, parameters)
#define DEEPSEEK_CUDA_DRIVER(X)                                                                    \
  X(init, "cuInit", (unsigned flags))                                                              \
  X(driver_version, "cuDriverGetVersion", (int* version))                                          \
  X(error_name, "cuGetErrorName", (Result error, const char** text))                               \
  X(error_string, "cuGetErrorString", (Result error, const char** text))                           \
  X(device_count, "cuDeviceGetCount", (int* count))                                                \
  X(device_get, "cuDeviceGet", (int* device, int ordinal))                                         \
  X(device_name, "cuDeviceGetName", (char* name, int length, int device))                          \
  X(device_total_memory, "cuDeviceTotalMem_v2", (size_t* bytes, int device))                       \
  X(device_attribute, "cuDeviceGetAttribute", (int* value, int attribute, int device))             \
  X(device_uuid, "cuDeviceGetUuid_v2", (Uuid * uuid, int device))                                  \
  X(device_can_access_peer, "cuDeviceCanAccessPeer", (int* can, int device, int peer))             \
  X(primary_context_retain, "cuDevicePrimaryCtxRetain", (ContextHandle * context, int device))     \
  X(context_set_current, "cuCtxSetCurrent", (ContextHandle context))                               \
  X(context_synchronize, "cuCtxSynchronize", ())                                                   \
  X(context_enable_peer_access, "cuCtxEnablePeerAccess", (ContextHandle peer, unsigned flags))     \
  X(memory_info, "cuMemGetInfo_v2", (size_t* free, size_t* total))                                 \
  X(memory_allocate, "cuMemAlloc_v2", (Address * address, size_t bytes))                           \
  X(memory_free, "cuMemFree_v2", (Address address))                                                \
  X(host_allocate, "cuMemHostAlloc", (void** address, size_t bytes, unsigned flags))               \
  X(host_free, "cuMemFreeHost", (void* address))                                                   \
  X(copy_to_device, "cuMemcpyHtoDAsync_v2",                                                        \
    (Address to, const void* from, size_t bytes, StreamHandle stream))                             \
  X(copy_to_host, "cuMemcpyDtoHAsync_v2",                                                          \
    (void* to, Address from, size_t bytes, StreamHandle stream))                                   \
  X(copy_on_device, "cuMemcpyDtoDAsync_v2",                                                        \
    (Address to, Address from, size_t bytes, StreamHandle stream))                                 \
  X(copy_between_devices, "cuMemcpyPeerAsync",                                                     \
    (Address to, ContextHandle to_context, Address from, ContextHandle from_context, size_t bytes, \
     StreamHandle stream))                                                                         \
  X(stream_create, "cuStreamCreateWithPriority",                                                   \
    (StreamHandle * stream, unsigned flags, int priority))                                         \
  X(stream_query, "cuStreamQuery", (StreamHandle stream))                                          \
  X(stream_synchronize, "cuStreamSynchronize", (StreamHandle stream))                              \
  X(stream_wait_event, "cuStreamWaitEvent",                                                        \
    (StreamHandle stream, EventHandle event, unsigned flags))                                      \
  X(event_create, "cuEventCreate", (EventHandle * event, unsigned flags))                          \
  X(event_destroy, "cuEventDestroy_v2", (EventHandle event))                                       \
  X(event_record, "cuEventRecord", (EventHandle event, StreamHandle stream))                       \
  X(event_query, "cuEventQuery", (EventHandle event))                                              \
  X(event_synchronize, "cuEventSynchronize", (EventHandle event))                                  \
  X(event_elapsed_time, "cuEventElapsedTime",                                                      \
    (float* milliseconds, EventHandle start, EventHandle end))                                     \
  X(module_load, "cuModuleLoadData", (ModuleHandle * module, const void* image))                   \
  X(module_unload, "cuModuleUnload", (ModuleHandle module))                                        \
  X(module_function, "cuModuleGetFunction",                                                        \
    (FunctionHandle * function, ModuleHandle module, const char* name))                            \
  X(function_set_attribute, "cuFuncSetAttribute",                                                  \
    (FunctionHandle function, int attribute, int value))                                           \
  X(launch, "cuLaunchKernel",                                                                      \
    (FunctionHandle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, \
     unsigned block_y, unsigned block_z, unsigned shared_bytes, StreamHandle stream,               \
     void** parameters, void** extra))                                                             \
  X(capture_begin, "cuStreamBeginCapture_v2", (StreamHandle stream, int mode))                     \
  X(capture_end, "cuStreamEndCapture", (StreamHandle stream, GraphHandle * graph))                 \
  X(capture_info, "cuStreamGetCaptureInfo_v2",                                                     \
    (StreamHandle stream, int* status, uint64_t* id, GraphHandle* graph, const GraphNode** last,   \
     size_t* last_count))                                                                          \
  X(graph_instantiate, "cuGraphInstantiateWithFlags",                                              \
    (GraphExec * exec, GraphHandle graph, unsigned long long flags))                               \
  X(graph_set_kernel, "cuGraphExecKernelNodeSetParams_v2",                                         \
    (GraphExec exec, GraphNode node, const KernelNode* parameters))                                \
  X(graph_launch, "cuGraphLaunch", (GraphExec exec, StreamHandle stream))                          \
  X(graph_destroy, "cuGraphDestroy", (GraphHandle graph))                                          \
  X(graph_exec_destroy, "cuGraphExecDestroy", (GraphExec exec))

struct Driver {
#define DEEPSEEK_CUDA_MEMBER(member, name, parameters) Result(*member) parameters = nullptr;
  DEEPSEEK_CUDA_DRIVER(DEEPSEEK_CUDA_MEMBER)
#undef DEEPSEEK_CUDA_MEMBER

  int version = 0;  // 13000 for CUDA 13.0
  std::string path;
};

// What the driver refused, in words, with the remedy. `code` is its own number, 0 where there was
// no driver to ask.
class Error : public std::runtime_error {
 public:
  Error(Result code, const std::string& text) : std::runtime_error(text), code_(code) {}
  Result code() const { return code_; }

 private:
  Result code_;
};

// The driver, opened and initialised on the first call; throws Error, the same one each time, where
// there is none, it is too old, or it finds no device.
const Driver& driver();

// Why driver() would throw; empty where it would not.
std::string why_unavailable();

// The driver's library; to be called before it is opened. Throws Error afterwards.
void set_driver_path(const std::string& path);

// CUDA 12.0: the oldest that has all of the table.
constexpr int kOldestDriver = 12000;

// "CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered".
std::string describe(Result code);

// Whether nothing can be done with a context any more after this error.
bool is_fatal(Result code);

}  // namespace deepseek::cuda
