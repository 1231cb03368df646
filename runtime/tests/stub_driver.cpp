// A CUDA driver without a device, for tests: the entry points that the runtime uses, on host
// memory.
//
// It is as lazy and as strict as a driver may be. Work is queued and done no sooner than somebody
// waits for it; addresses of "device" memory fault when the host touches them; what a capture does
// not allow fails. A module's image is text, "stub-cubin ARCH" and a line "NAME ADDRESS BUFFERS
// SIZES" for each kernel, whose address is that of a function with the signature of the processor's
// kernels, called with the grid as its range; the kernel "trap" accesses memory illegally.
//
// The stub_* functions say what was called and what is left, and have any call fail. Environment:
// STUB_DEVICES, STUB_ARCH, STUB_VERSION, STUB_MEMORY (bytes a device), STUB_FAIL ("cuInit:1:100").
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#define STUB extern "C" __attribute__((visibility("default")))

namespace {

enum : int {
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoDevice = 100,
  kInvalidImage = 200,
  kNoBinaryForGpu = 209,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kCaptureUnsupported = 900,
};

using Address = unsigned long long;
using HostKernel = void (*)(void* const*, const int64_t*, int64_t, int64_t, void*);

constexpr Address kTag = Address{1} << 62;  // no such address is mapped
constexpr size_t kScratch = size_t{1} << 20;

struct Function {
  std::string name;
  HostKernel run = nullptr;
  size_t buffers = 0;
  size_t sizes = 0;
};

struct Module {
  std::map<std::string, std::unique_ptr<Function>> functions;
};

// Kernel launches are kept apart from other work, since graphs let them be changed.
struct Launch {
  const Function* function = nullptr;
  int64_t grid = 0;
  std::vector<void*> buffers;
  std::vector<int64_t> sizes;
};

struct Work {
  std::shared_ptr<Launch> launch;
  std::function<void()> other;
};

struct Graph;

struct Stream {
  int device = 0;
  std::deque<Work> queue;
  uint64_t queued = 0;
  uint64_t done = 0;
  Graph* capture = nullptr;
};

struct Event {
  Stream* stream = nullptr;
  uint64_t at = 0;
};

struct Node {
  Work work;
};

struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;
  const Node* last = nullptr;
};

struct Exec {
  std::vector<std::pair<const Node*, Work>> works;
};

struct Block {
  std::unique_ptr<char, void (*)(void*)> data;
  size_t nbytes;
  int device;
};

struct Failure {
  std::string function;
  int call;
  int code;
};

struct State {
  std::recursive_mutex mutex;
  std::map<std::string, int> calls;
  std::vector<Failure> failures;
  std::map<Address, Block> device_memory;
  std::map<char*, Block> host_memory;
  std::map<int, size_t> used;
  std::map<int, int> broken;  // by device: the error that all calls give
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::set<Module*> modules;
  std::set<Graph*> graphs;
  std::set<Exec*> execs;
  int contexts[64];
};

State& state() {
  static auto* state = new State;
  return *state;
}

thread_local int current = -1;
thread_local int capturing = 0;

size_t setting(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// What this call is to fail with, if it is.
int planned(const char* function) {
  State& s = state();
  const int call = ++s.calls[function];
  for (const Failure& failure : s.failures) {
    if (failure.function == function && (failure.call == call || failure.call == 0)) {
      if (failure.code >= kIllegalAddress && failure.code < 720 && current >= 0) {
        s.broken[current] = failure.code;
      }
      return failure.code;
    }
  }
  // Asking about devices needs no context.
  const auto broken = s.broken.find(current);
  return broken == s.broken.end() || std::strncmp(function, "cuDevice", 8) == 0 ? 0
                                                                                : broken->second;
}

#define ENTER(function)                                \
  std::lock_guard lock(state().mutex);                 \
  if (const int code = planned(function); code != 0) { \
    return code;                                       \
  }

#define NOT_IN_CAPTURE          \
  if (capturing > 0) {          \
    return kCaptureUnsupported; \
  }

char* pointer(Address address) {
  return reinterpret_cast<char*>(address & ~kTag);
}

// Whether the bytes are memory of a device, and still allocated.
bool valid(Address address, size_t nbytes) {
  auto& memory = state().device_memory;
  auto found = memory.upper_bound(address);
  if (found == memory.begin()) {
    return false;
  }
  --found;
  return address + nbytes <= found->first + found->second.nbytes;
}

bool pinned(const void* data) {
  auto& memory = state().host_memory;
  auto found = memory.upper_bound(static_cast<char*>(const_cast<void*>(data)));
  if (found == memory.begin()) {
    return false;
  }
  --found;
  return data < found->first + found->second.nbytes;
}

void break_device(int device, int code) {
  state().broken.emplace(device, code);
}

void execute(const Launch& launch, int device) {
  if (launch.function->name == "trap") {
    break_device(device, kIllegalAddress);
    return;
  }
  std::vector<void*> buffers;
  for (void* buffer : launch.buffers) {
    const auto address = reinterpret_cast<Address>(buffer);
    if (!valid(address, 0)) {
      break_device(device, kIllegalAddress);
      return;
    }
    buffers.push_back(pointer(address));
  }
  if (launch.function->run != nullptr) {
    const auto scratch = std::make_unique<char[]>(2 * kScratch);
    const auto at = (reinterpret_cast<uintptr_t>(scratch.get()) + 4095) & ~uintptr_t{4095};
    launch.function->run(buffers.data(), launch.sizes.data(), 0, launch.grid,
                         reinterpret_cast<void*>(at));
  }
}

void drain(Stream& stream, uint64_t to) {
  while (stream.done < to && !stream.queue.empty()) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    ++stream.done;
    if (state().broken.count(stream.device) != 0) {
      continue;
    }
    if (work.launch) {
      execute(*work.launch, stream.device);
    } else {
      work.other();
    }
  }
}

int sync_result(int device) {
  const auto broken = state().broken.find(device);
  return broken == state().broken.end() ? 0 : broken->second;
}

void enqueue(Stream& stream, Work work) {
  if (stream.capture != nullptr) {
    stream.capture->nodes.push_back(std::make_unique<Node>(Node{std::move(work)}));
    stream.capture->last = stream.capture->nodes.back().get();
    return;
  }
  stream.queue.push_back(std::move(work));
  ++stream.queued;
}

int copy(Stream* stream, size_t nbytes, Address to, Address from) {
  if (!valid(to, nbytes) || !valid(from, nbytes)) {
    return kInvalidValue;
  }
  const int device = stream->device;
  enqueue(*stream, {nullptr, [to, from, nbytes, device] {
                      if (!valid(to, nbytes) || !valid(from, nbytes)) {
                        break_device(device, kIllegalAddress);
                        return;
                      }
                      std::memcpy(pointer(to), pointer(from), nbytes);
                    }});
  return 0;
}

void fill(Launch& launch, const Function& function, unsigned grid, void** parameters) {
  launch.function = &function;
  launch.grid = grid;
  launch.buffers.clear();
  launch.sizes.clear();
  for (size_t i = 0; i < function.buffers; ++i) {
    launch.buffers.push_back(*static_cast<void**>(parameters[i]));
  }
  for (size_t i = 0; i < function.sizes; ++i) {
    launch.sizes.push_back(*static_cast<int64_t*>(parameters[function.buffers + i]));
  }
}

std::unique_ptr<char, void (*)(void*)> bytes(size_t nbytes) {
  return {static_cast<char*>(std::aligned_alloc(512, (nbytes + 511) / 512 * 512)), std::free};
}

void read_failures() {
  const char* text = std::getenv("STUB_FAIL");
  std::istringstream list(text == nullptr ? "" : text);
  std::string item;
  while (std::getline(list, item, ',')) {
    std::istringstream parts(item);
    Failure failure;
    std::string call;
    std::string code;
    std::getline(parts, failure.function, ':');
    std::getline(parts, call, ':');
    std::getline(parts, code, ':');
    failure.call = std::atoi(call.c_str());
    failure.code = std::atoi(code.c_str());
    state().failures.push_back(failure);
  }
}

[[maybe_unused]] const bool failures_read = (read_failures(), true);

}  // namespace

// ---- control -----------------------------------------------------------------------------------

// The call-th call of a function from now on fails with a code; 0: every call.
STUB void stub_fail(const char* function, int call, int code) {
  std::lock_guard lock(state().mutex);
  state().failures.push_back({function, call == 0 ? 0 : state().calls[function] + call, code});
}

STUB void stub_succeed() {
  std::lock_guard lock(state().mutex);
  state().failures.clear();
}

STUB int stub_calls(const char* function) {
  std::lock_guard lock(state().mutex);
  return state().calls[function];
}

// How many there are of: memory (device blocks), bytes, pinned, streams, events, modules, graphs,
// execs; queued: work not done yet.
STUB long stub_live(const char* kind) {
  std::lock_guard lock(state().mutex);
  const State& s = state();
  const std::string what = kind;
  long nbytes = 0;
  for (const auto& [_, used] : s.used) {
    nbytes += static_cast<long>(used);
  }
  long queued = 0;
  for (const Stream* stream : s.streams) {
    queued += static_cast<long>(stream->queue.size());
  }
  const std::map<std::string, long> counts = {{"memory", s.device_memory.size()},
                                              {"bytes", nbytes},
                                              {"pinned", s.host_memory.size()},
                                              {"streams", s.streams.size()},
                                              {"events", s.events.size()},
                                              {"modules", s.modules.size()},
                                              {"graphs", s.graphs.size()},
                                              {"execs", s.execs.size()},
                                              {"queued", queued}};
  const auto found = counts.find(what);
  return found == counts.end() ? -1 : found->second;
}

// ---- the driver --------------------------------------------------------------------------------

STUB int cuInit(unsigned) {
  ENTER("cuInit");
  return setting("STUB_DEVICES", 2) == 0 ? kNoDevice : 0;
}

STUB int cuDriverGetVersion(int* version) {
  ENTER("cuDriverGetVersion");
  *version = static_cast<int>(setting("STUB_VERSION", 13000));
  return 0;
}

STUB int cuGetErrorName(int code, const char** text) {
  static const std::map<int, const char*> names = {
      {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
      {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
      {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"},
      {kNoBinaryForGpu, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
      {kNotFound, "CUDA_ERROR_NOT_FOUND"},
      {kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {719, "CUDA_ERROR_LAUNCH_FAILED"},
      {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};
  const auto found = names.find(code);
  if (found == names.end()) {
    return kInvalidValue;
  }
  *text = found->second;
  return 0;
}

STUB int cuGetErrorString(int code, const char** text) {
  if (code != kIllegalAddress) {
    return kInvalidValue;
  }
  *text = "an illegal memory access was encountered";
  return 0;
}

STUB int cuDeviceGetCount(int* count) {
  ENTER("cuDeviceGetCount");
  *count = static_cast<int>(setting("STUB_DEVICES", 2));
  return 0;
}

STUB int cuDeviceGet(int* device, int ordinal) {
  ENTER("cuDeviceGet");
  *device = ordinal;
  return 0;
}

STUB int cuDeviceGetName(char* name, int length, int device) {
  ENTER("cuDeviceGetName");
  std::snprintf(name, static_cast<size_t>(length), "Stub %d", device);
  return 0;
}

STUB int cuDeviceTotalMem_v2(size_t* nbytes, int) {
  ENTER("cuDeviceTotalMem_v2");
  *nbytes = setting("STUB_MEMORY", size_t{1} << 30);
  return 0;
}

STUB int cuDeviceGetAttribute(int* value, int attribute, int) {
  ENTER("cuDeviceGetAttribute");
  const int arch = static_cast<int>(setting("STUB_ARCH", 90));
  const std::map<int, int> known = {{1, 1024},       {8, 48 << 10},   {10, 32},    {16, 132},
                                    {18, 0},         {38, 50 << 20},  {39, 2048},  {75, arch / 10},
                                    {76, arch % 10}, {81, 228 << 10}, {82, 65536}, {97, 227 << 10}};
  *value = known.at(attribute);
  return 0;
}

STUB int cuDeviceGetUuid_v2(char* uuid, int device) {
  ENTER("cuDeviceGetUuid_v2");
  std::memset(uuid, 0, 16);
  uuid[15] = static_cast<char>(device);
  return 0;
}

STUB int cuDeviceCanAccessPeer(int* can, int device, int peer) {
  ENTER("cuDeviceCanAccessPeer");
  *can = device != peer ? 1 : 0;
  return 0;
}

STUB int cuDevicePrimaryCtxRetain(void** context, int device) {
  ENTER("cuDevicePrimaryCtxRetain");
  *context = &state().contexts[device];
  return 0;
}

STUB int cuCtxSetCurrent(void* context) {
  std::lock_guard lock(state().mutex);
  current = static_cast<int>(static_cast<int*>(context) - state().contexts);
  const int code = planned("cuCtxSetCurrent");
  return code == kIllegalAddress ? 0 : code;  // making a context current looks at no work
}

STUB int cuCtxSynchronize() {
  ENTER("cuCtxSynchronize");
  NOT_IN_CAPTURE
  for (Stream* stream : state().streams) {
    if (stream->device == current) {
      drain(*stream, stream->queued);
    }
  }
  return sync_result(current);
}

STUB int cuCtxEnablePeerAccess(void*, unsigned) {
  ENTER("cuCtxEnablePeerAccess");
  return 0;
}

STUB int cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER("cuMemGetInfo_v2");
  *total = setting("STUB_MEMORY", size_t{1} << 30);
  *free = *total - state().used[current];
  return 0;
}

STUB int cuMemAlloc_v2(Address* address, size_t nbytes) {
  ENTER("cuMemAlloc_v2");
  NOT_IN_CAPTURE
  State& s = state();
  if (nbytes == 0 || s.used[current] + nbytes > setting("STUB_MEMORY", size_t{1} << 30)) {
    return nbytes == 0 ? kInvalidValue : kOutOfMemory;
  }
  Block block{bytes(nbytes), nbytes, current};
  std::memset(block.data.get(), 0xAB, nbytes);  // what is in fresh memory is nobody's to know
  *address = reinterpret_cast<Address>(block.data.get()) | kTag;
  s.used[current] += nbytes;
  s.device_memory.emplace(*address, std::move(block));
  return 0;
}

STUB int cuMemFree_v2(Address address) {
  ENTER("cuMemFree_v2");
  NOT_IN_CAPTURE
  State& s = state();
  const auto found = s.device_memory.find(address);
  if (found == s.device_memory.end()) {
    return kInvalidValue;
  }
  s.used[found->second.device] -= found->second.nbytes;
  s.device_memory.erase(found);
  return 0;
}

STUB int cuMemHostAlloc(void** data, size_t nbytes, unsigned) {
  ENTER("cuMemHostAlloc");
  NOT_IN_CAPTURE
  Block block{bytes(nbytes), nbytes, current};
  *data = block.data.get();
  state().host_memory.emplace(block.data.get(), std::move(block));
  return 0;
}

STUB int cuMemFreeHost(void* data) {
  ENTER("cuMemFreeHost");
  return state().host_memory.erase(static_cast<char*>(data)) == 1 ? 0 : kInvalidValue;
}

STUB int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t nbytes, Stream* stream) {
  ENTER("cuMemcpyHtoDAsync_v2");
  if (!valid(to, nbytes)) {
    return kInvalidValue;
  }
  const auto* source = static_cast<const char*>(from);
  std::string taken;  // memory that is not pinned is read before the call returns
  const bool later = pinned(from);
  if (!later) {
    taken.assign(source, nbytes);
  }
  enqueue(*stream, {nullptr, [to, source, nbytes, later, taken = std::move(taken)] {
                      std::memcpy(pointer(to), later ? source : taken.data(), nbytes);
                    }});
  return 0;
}

STUB int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t nbytes, Stream* stream) {
  ENTER("cuMemcpyDtoHAsync_v2");
  if (!valid(from, nbytes)) {
    return kInvalidValue;
  }
  enqueue(*stream, {nullptr, [to, from, nbytes] { std::memcpy(to, pointer(from), nbytes); }});
  if (!pinned(to)) {
    drain(*stream, stream->queued);
  }
  return sync_result(stream->device);
}

STUB int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t nbytes, Stream* stream) {
  ENTER("cuMemcpyDtoDAsync_v2");
  return copy(stream, nbytes, to, from);
}

STUB int cuMemcpyPeerAsync(Address to, void*, Address from, void*, size_t nbytes, Stream* stream) {
  ENTER("cuMemcpyPeerAsync");
  return copy(stream, nbytes, to, from);
}

STUB int cuStreamCreateWithPriority(Stream** stream, unsigned, int) {
  ENTER("cuStreamCreateWithPriority");
  *stream = new Stream;
  (*stream)->device = current;
  state().streams.insert(*stream);
  return 0;
}

STUB int cuStreamQuery(Stream* stream) {
  ENTER("cuStreamQuery");
  return stream->done < stream->queued ? kNotReady : 0;
}

STUB int cuStreamSynchronize(Stream* stream) {
  ENTER("cuStreamSynchronize");
  if (stream->capture != nullptr) {
    return kCaptureUnsupported;
  }
  drain(*stream, stream->queued);
  return sync_result(stream->device);
}

STUB int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
  ENTER("cuStreamWaitEvent");
  if (event->stream != nullptr && event->stream != stream) {
    Stream* other = event->stream;
    const uint64_t at = event->at;
    enqueue(*stream, {nullptr, [other, at] { drain(*other, at); }});
  }
  return 0;
}

STUB int cuEventCreate(Event** event, unsigned) {
  ENTER("cuEventCreate");
  *event = new Event;
  state().events.insert(*event);
  return 0;
}

STUB int cuEventDestroy_v2(Event* event) {
  ENTER("cuEventDestroy_v2");
  state().events.erase(event);
  delete event;
  return 0;
}

STUB int cuEventRecord(Event* event, Stream* stream) {
  ENTER("cuEventRecord");
  event->stream = stream;
  event->at = stream->queued;
  return 0;
}

STUB int cuEventQuery(Event* event) {
  ENTER("cuEventQuery");
  return event->stream != nullptr && event->stream->done < event->at ? kNotReady : 0;
}

STUB int cuEventSynchronize(Event* event) {
  ENTER("cuEventSynchronize");
  if (event->stream == nullptr) {
    return 0;
  }
  drain(*event->stream, event->at);
  return sync_result(event->stream->device);
}

STUB int cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  ENTER("cuEventElapsedTime");
  if (start->stream->done < start->at || end->stream->done < end->at) {
    return kNotReady;
  }
  *milliseconds = static_cast<float>(end->at - start->at);  // a millisecond for a piece of work
  return 0;
}

STUB int cuModuleLoadData(Module** module, const void* image) {
  ENTER("cuModuleLoadData");
  std::istringstream lines(static_cast<const char*>(image));
  std::string word;
  size_t arch = 0;
  if (!(lines >> word >> arch) || word != "stub-cubin") {
    return kInvalidImage;
  }
  if (arch != setting("STUB_ARCH", 90)) {
    return kNoBinaryForGpu;
  }
  auto made = std::make_unique<Module>();
  Address at = 0;
  Function function;
  while (lines >> function.name >> at >> function.buffers >> function.sizes) {
    function.run = reinterpret_cast<HostKernel>(at);
    made->functions[function.name] = std::make_unique<Function>(function);
  }
  *module = made.release();
  state().modules.insert(*module);
  return 0;
}

STUB int cuModuleUnload(Module* module) {
  ENTER("cuModuleUnload");
  state().modules.erase(module);
  delete module;
  return 0;
}

STUB int cuModuleGetFunction(Function** function, Module* module, const char* name) {
  ENTER("cuModuleGetFunction");
  const auto found = module->functions.find(name);
  if (found == module->functions.end()) {
    return kNotFound;
  }
  *function = found->second.get();
  return 0;
}

STUB int cuFuncSetAttribute(Function*, int, int) {
  ENTER("cuFuncSetAttribute");
  return 0;
}

STUB int cuLaunchKernel(Function* function, unsigned grid, unsigned, unsigned, unsigned, unsigned,
                        unsigned, unsigned, Stream* stream, void** parameters, void**) {
  ENTER("cuLaunchKernel");
  if (grid == 0) {
    return kInvalidValue;
  }
  auto launch = std::make_shared<Launch>();
  fill(*launch, *function, grid, parameters);
  enqueue(*stream, {std::move(launch), {}});
  return 0;
}

STUB int cuStreamBeginCapture_v2(Stream* stream, int) {
  ENTER("cuStreamBeginCapture_v2");
  if (stream->capture != nullptr) {
    return kInvalidValue;
  }
  stream->capture = new Graph;
  state().graphs.insert(stream->capture);
  ++capturing;
  return 0;
}

// A capture that fails has ended, too.
STUB int cuStreamEndCapture(Stream* stream, Graph** graph) {
  std::lock_guard lock(state().mutex);
  const int code = planned("cuStreamEndCapture");
  if (stream->capture == nullptr) {
    return kInvalidValue;
  }
  *graph = stream->capture;
  stream->capture = nullptr;
  --capturing;
  if (code != 0) {
    state().graphs.erase(*graph);
    delete *graph;
    *graph = nullptr;
  }
  return code;
}

STUB int cuStreamGetCaptureInfo_v2(Stream* stream, int* status, uint64_t*, Graph**,
                                   const Node* const** last, size_t* count) {
  ENTER("cuStreamGetCaptureInfo_v2");
  *status = stream->capture == nullptr ? 0 : 1;
  if (stream->capture != nullptr) {
    *last = &stream->capture->last;
    *count = stream->capture->last == nullptr ? 0 : 1;
  }
  return 0;
}

STUB int cuGraphInstantiateWithFlags(Exec** exec, Graph* graph, unsigned long long) {
  ENTER("cuGraphInstantiateWithFlags");
  *exec = new Exec;
  state().execs.insert(*exec);
  for (const auto& node : graph->nodes) {
    Work work = node->work;
    if (work.launch) {
      work.launch = std::make_shared<Launch>(*work.launch);
    }
    (*exec)->works.emplace_back(node.get(), std::move(work));
  }
  return 0;
}

struct KernelNode {
  Function* function;
  unsigned grid[3];
  unsigned block[3];
  unsigned shared;
  void** parameters;
};

STUB int cuGraphExecKernelNodeSetParams_v2(Exec* exec, Node* node, const KernelNode* what) {
  ENTER("cuGraphExecKernelNodeSetParams_v2");
  for (auto& [known, work] : exec->works) {
    if (known == node && work.launch) {
      // Launches that were queued before keep what they had.
      work.launch = std::make_shared<Launch>();
      fill(*work.launch, *what->function, what->grid[0], what->parameters);
      return 0;
    }
  }
  return kInvalidValue;
}

STUB int cuGraphLaunch(Exec* exec, Stream* stream) {
  ENTER("cuGraphLaunch");
  for (const auto& [_, work] : exec->works) {
    enqueue(*stream, work);
  }
  return 0;
}

STUB int cuGraphDestroy(Graph* graph) {
  ENTER("cuGraphDestroy");
  state().graphs.erase(graph);
  delete graph;
  return 0;
}

STUB int cuGraphExecDestroy(Exec* exec) {
  ENTER("cuGraphExecDestroy");
  state().execs.erase(exec);
  delete exec;
  return 0;
}
