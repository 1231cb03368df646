// A library with NCCL's C interface that does nothing but note what it is asked, and fails on
// demand. A world of one rank gets what it gives.
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

std::mutex mutex;
std::vector<std::string> calls;
std::string fails;
int communicators = 0;
uint64_t ids = 0;

struct Rank {
  int size;
  uint64_t id;
};

int note(const std::string& name, const std::string& what = {}) {
  std::lock_guard lock(mutex);
  calls.push_back(what.empty() ? name : name + " " + what);
  return name == fails ? 3 : 0;
}

std::string text(std::initializer_list<size_t> numbers) {
  std::string joined;
  for (const size_t number : numbers) {
    joined += (joined.empty() ? "" : " ") + std::to_string(number);
  }
  return joined;
}

int move(void* comm, const void* from, void* to, size_t nbytes) {
  if (static_cast<Rank*>(comm)->size == 1 && nbytes > 0) {
    std::memcpy(to, from, nbytes);
  }
  return 0;
}

}  // namespace

#define STUB extern "C" __attribute__((visibility("default")))

// ---- for tests ----

STUB const char* stub_calls() {
  std::lock_guard lock(mutex);
  static std::string joined;
  joined.clear();
  for (const std::string& call : calls) {
    joined += call + "\n";
  }
  calls.clear();
  return joined.c_str();
}

STUB void stub_fail(const char* name) {
  std::lock_guard lock(mutex);
  fails = name;
}

STUB int stub_communicators() {
  std::lock_guard lock(mutex);
  return communicators;
}

STUB uint64_t stub_id(void* comm) {
  return static_cast<Rank*>(comm)->id;
}

// ---- NCCL's ----

struct ncclUniqueId {
  char internal[128];
};

STUB int ncclGetUniqueId(ncclUniqueId* id) {
  std::memset(id, 0, sizeof *id);
  std::lock_guard lock(mutex);
  ++ids;
  std::memcpy(id, &ids, sizeof ids);
  return 0;
}

STUB int ncclCommInitRank(void** comm, int size, ncclUniqueId id, int rank) {
  uint64_t number = 0;
  std::memcpy(&number, &id, sizeof number);
  const int result = note("ncclCommInitRank",
                          text({static_cast<size_t>(size), static_cast<size_t>(rank), number}));
  if (result == 0) {
    std::lock_guard lock(mutex);
    ++communicators;
    *comm = new Rank{size, number};
  }
  return result;
}

STUB int ncclCommDestroy(void* comm) {
  std::lock_guard lock(mutex);
  --communicators;
  delete static_cast<Rank*>(comm);
  return 0;
}

STUB const char* ncclGetErrorString(int result) {
  return result == 3 ? "internal error, as told" : "unknown";
}

STUB int ncclGroupStart() {
  return note("ncclGroupStart");
}

STUB int ncclGroupEnd() {
  return note("ncclGroupEnd");
}

STUB int ncclAllReduce(const void* from, void* to, size_t count, int type, int op, void* comm,
                       void*) {
  move(comm, from, to, count * 4);
  return note("ncclAllReduce", text({count, static_cast<size_t>(type), static_cast<size_t>(op)}));
}

STUB int ncclReduce(const void*, void*, size_t count, int type, int op, int root, void*, void*) {
  return note("ncclReduce", text({count, static_cast<size_t>(type), static_cast<size_t>(op),
                                  static_cast<size_t>(root)}));
}

STUB int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, void* comm,
                       void*) {
  move(comm, from, to, count);
  return note("ncclBroadcast", text({count, static_cast<size_t>(type), static_cast<size_t>(root)}));
}

STUB int ncclAllGather(const void* from, void* to, size_t count, int type, void* comm, void*) {
  move(comm, from, to, count);
  return note("ncclAllGather", text({count, static_cast<size_t>(type)}));
}

STUB int ncclReduceScatter(const void* from, void* to, size_t count, int type, int op, void* comm,
                           void*) {
  move(comm, from, to, count * 4);
  return note("ncclReduceScatter",
              text({count, static_cast<size_t>(type), static_cast<size_t>(op)}));
}

STUB int ncclSend(const void*, size_t count, int type, int peer, void*, void*) {
  return note("ncclSend", text({count, static_cast<size_t>(type), static_cast<size_t>(peer)}));
}

STUB int ncclRecv(void*, size_t count, int type, int peer, void*, void*) {
  return note("ncclRecv", text({count, static_cast<size_t>(type), static_cast<size_t>(peer)}));
}
