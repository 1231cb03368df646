#include "segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fstream>
#include <new>
#include <sstream>
#include <thread>

namespace deepseek::collective {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMagic = 0x64'73'63'6f'6d'6d'00'01;  // the layout's version comes last
constexpr int kMostRanks = 64;
constexpr int64_t kChunk = 128 << 10;
constexpr int64_t kChannels = 512 << 10;  // bytes of pieces that a rank has in all, about
constexpr int64_t kLeastPiece = 4 << 10;
constexpr auto kLook = std::chrono::milliseconds(2);

struct Layout {
  size_t ranks;
  size_t channels;
  size_t chunks;
  size_t pieces;
  size_t end;
};

size_t rounded(size_t nbytes) {
  return (nbytes + 4095) & ~size_t{4095};
}

int64_t piece_bytes(int size) {
  return std::max(kLeastPiece, (kChannels / 2 / size) & ~int64_t{4095});
}

Layout layout_of(int ranks) {
  const auto n = static_cast<size_t>(ranks);
  Layout layout{};
  layout.ranks = rounded(sizeof(Header));
  layout.channels = layout.ranks + rounded(n * sizeof(RankBlock));
  layout.chunks = layout.channels + rounded(n * n * sizeof(Channel));
  layout.pieces = layout.chunks + n * 2 * static_cast<size_t>(kChunk);
  layout.end = layout.pieces + n * n * 2 * static_cast<size_t>(piece_bytes(ranks));
  return layout;
}

// A process is told from a later one of the same number by the time that it started.
uint64_t birth_of(int32_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) {
    return 0;
  }
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  fields >> field;
  if (field == "Z" || field == "X") {
    return 0;  // dead, and only its parent has not looked yet
  }
  constexpr int kStartTime = 22;
  for (int number = 3; number < kStartTime; ++number) {
    fields >> field;
  }
  return std::stoull(field) + 1;
}

[[noreturn]] void fail(const std::string& what, int error) {
  throw CollectiveError(what + ": " + std::strerror(error));
}

class File {
 public:
  explicit File(int number) : number_(number) {}
  ~File() {
    if (number_ >= 0) {
      close(number_);
    }
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

}  // namespace

void Signal::set(uint32_t next) {
  value.store(next, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) != 0) {
    wake();
  }
}

void Signal::wake() {
  syscall(SYS_futex, &value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void Signal::sleep(uint32_t seen, std::chrono::milliseconds patience) {
  const timespec limit{patience.count() / 1000, patience.count() % 1000 * 1'000'000};
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  syscall(SYS_futex, &value, FUTEX_WAIT, seen, &limit, nullptr, 0);
  sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

void Said::say(uint64_t as_number, const Message& message) {
  const auto byte = [](auto value) { return static_cast<uint64_t>(static_cast<uint8_t>(value)); };
  what.store(byte(message.verb) | byte(message.element) << 8 | byte(message.reduction) << 16 |
                 byte(message.peer) << 24 | byte(message.source) << 32,
             std::memory_order_relaxed);
  count.store(message.count, std::memory_order_relaxed);
  number.store(as_number, std::memory_order_release);
}

Message Said::message() const {
  const uint64_t word = what.load(std::memory_order_relaxed);
  return {static_cast<Verb>(word & 7),
          static_cast<Element>(word >> 8 & 15),
          static_cast<Reduction>(word >> 16 & 7),
          static_cast<int8_t>(word >> 24),
          static_cast<int8_t>(word >> 32),
          count.load(std::memory_order_relaxed)};
}

bool is_alive(int32_t process, uint64_t born) {
  return process == 0 || birth_of(process) == born;
}

Segment::Segment(const std::string& group, const Meeting& meeting, const InterruptCheck& interrupt)
    : rank_(meeting.rank) {
  if (meeting.size > kMostRanks) {
    throw std::invalid_argument("group '" + group + "': got " + std::to_string(meeting.size) +
                                " ranks; wanted at most " + std::to_string(kMostRanks));
  }
  const auto deadline = Clock::now() + meeting.timeout;
  const auto wait = [&](auto what) {
    if (Clock::now() > deadline) {
      if (rank_ == 0) {
        unlink(meeting.place.c_str());
      }
      throw CollectiveError("group '" + group + "': rank " + std::to_string(rank_) + " waited " +
                            std::to_string(meeting.timeout.count()) + " ms for " + what());
    }
    for (int r = 0; base_ != nullptr && r < meeting.size; ++r) {
      if (!is_alive(rank(r).process.load(), rank(r).born.load())) {
        unlink(meeting.place.c_str());
        throw CollectiveError("group '" + group + "': rank " + std::to_string(r) +
                              " died while the group was made");
      }
    }
    if (interrupt.check != nullptr) {
      interrupt.check(interrupt.context);
    }
    std::this_thread::sleep_for(kLook);
  };
  try {
    if (rank_ == 0) {
      create(meeting);
    } else {
      while (!join(group, meeting)) {
        wait([&] { return "rank 0, which has made no group at " + meeting.place; });
      }
    }
    while (header().attached.load() < meeting.size) {
      wait([&] { return missing() + " to join it"; });
    }
    if (rank_ == 0) {
      unlink(meeting.place.c_str());
      header().complete.set(1);
    }
    while (header().complete.value.load() == 0) {
      wait([] { return std::string("rank 0 to go on"); });
    }
  } catch (...) {
    if (base_ != nullptr) {
      if (rank_ == 0) {
        unlink(meeting.place.c_str());
      }
      leave();
      unmap();
    }
    throw;
  }
}

Segment::~Segment() {
  unmap();
}

void Segment::create(const Meeting& meeting) {
  const std::string making = meeting.place + "." + std::to_string(getpid());
  const File file(open(making.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.number() < 0) {
    fail("cannot make " + making, errno);
  }
  const size_t nbytes = layout_of(meeting.size).end;
  // What is not reserved now would end the process when it is first written to.
  const int error = posix_fallocate(file.number(), 0, static_cast<off_t>(nbytes));
  if (error != 0) {
    unlink(making.c_str());
    fail("cannot get " + std::to_string(nbytes) + " bytes of shared memory at " + making, error);
  }
  map(file.number(), nbytes);
  Header& header = *new (base_) Header;
  header.size = meeting.size;
  header.chunk = kChunk;
  header.piece = piece_bytes(meeting.size);
  for (int r = 0; r < meeting.size; ++r) {
    new (&rank(r)) RankBlock;
    for (int to = 0; to < meeting.size; ++to) {
      new (&channel(r, to)) Channel;
    }
  }
  move_in(0);
  header.magic.store(kMagic, std::memory_order_release);
  // In one step, and over what a group that never met has left there.
  if (rename(making.c_str(), meeting.place.c_str()) != 0) {
    const int reason = errno;
    unlink(making.c_str());
    fail("cannot make " + meeting.place, reason);
  }
}

// False while there is no group to join: not yet, or only one that a dead process has left.
bool Segment::join(const std::string& group, const Meeting& meeting) {
  const File file(open(meeting.place.c_str(), O_RDWR | O_CLOEXEC));
  if (file.number() < 0) {
    if (errno == ENOENT) {
      return false;
    }
    fail("cannot open " + meeting.place, errno);
  }
  struct stat status{};
  if (fstat(file.number(), &status) != 0) {
    fail("cannot look at " + meeting.place, errno);
  }
  if (status.st_uid != getuid() || static_cast<size_t>(status.st_size) < layout_of(1).end) {
    throw CollectiveError(meeting.place + " is not a meeting place of this user's");
  }
  map(file.number(), static_cast<size_t>(status.st_size));
  const RankBlock& first = rank(0);
  if (header().magic.load(std::memory_order_acquire) != kMagic ||
      layout_of(header().size).end != nbytes_ ||
      !is_alive(first.process.load(), first.born.load()) ||
      first.presence.load() != Presence::kHere) {
    unmap();
    return false;
  }
  if (header().size != meeting.size) {
    const int found = header().size;
    unmap();
    throw CollectiveError("group '" + group + "': rank " + std::to_string(meeting.rank) +
                          " says that there are " + std::to_string(meeting.size) +
                          " ranks, and rank 0 says " + std::to_string(found));
  }
  Presence absent = Presence::kAbsent;
  RankBlock& own = rank(meeting.rank);
  if (!own.presence.compare_exchange_strong(absent, Presence::kHere)) {
    const int32_t other = own.process.load();
    unmap();
    throw CollectiveError("group '" + group + "': rank " + std::to_string(meeting.rank) +
                          " is taken, by process " + std::to_string(other));
  }
  move_in(meeting.rank);
  return true;
}

void Segment::map(int file, size_t nbytes) {
  void* mapped = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) {
    fail("cannot map shared memory", errno);
  }
  base_ = static_cast<char*>(mapped);
  nbytes_ = nbytes;
}

void Segment::unmap() {
  if (base_ != nullptr) {
    munmap(base_, nbytes_);
    base_ = nullptr;
  }
}

void Segment::move_in(int number) {
  RankBlock& own = rank(number);
  own.born.store(birth_of(getpid()));
  own.process.store(getpid());
  own.presence.store(Presence::kHere);
  header().attached.fetch_add(1);
}

std::string Segment::missing() const {
  std::string ranks;
  for (int r = 0; r < header().size; ++r) {
    if (rank(r).process.load() == 0) {
      ranks += (ranks.empty() ? "rank " : ", ") + std::to_string(r);
    }
  }
  return ranks;
}

RankBlock& Segment::rank(int rank) const {
  const size_t at = rounded(sizeof(Header)) + static_cast<size_t>(rank) * sizeof(RankBlock);
  return *reinterpret_cast<RankBlock*>(base_ + at);
}

Channel& Segment::channel(int from, int to) const {
  const int ranks = header().size;
  const auto number = static_cast<size_t>(from * ranks + to);
  return *reinterpret_cast<Channel*>(base_ + layout_of(ranks).channels + number * sizeof(Channel));
}

char* Segment::chunk(int rank, uint32_t number) const {
  const auto slot = static_cast<size_t>(rank) * 2 + number % 2;
  return base_ + layout_of(header().size).chunks + slot * static_cast<size_t>(kChunk);
}

char* Segment::piece(int from, int to, uint32_t number) const {
  const int ranks = header().size;
  const auto slot = static_cast<size_t>(from * ranks + to) * 2 + number % 2;
  return base_ + layout_of(ranks).pieces + slot * static_cast<size_t>(header().piece);
}

void Segment::leave() {
  rank(rank_).presence.store(Presence::kLeft);
}

}  // namespace deepseek::collective
