// The memory that the ranks of a group share: who is there, how far each is, and room for chunks.
//
// Rank 0 makes it as a file at the meeting place, the others map that file, and when all have, the
// file is removed: the memory then lives as long as some rank does, and a crash leaves nothing.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "deepseek/collective.h"

namespace deepseek::collective {

// A number that others wait for. Its waiters sleep in the kernel when it does not change soon.
struct alignas(64) Signal {
  std::atomic<uint32_t> value{0};
  std::atomic<uint32_t> sleepers{0};

  void set(uint32_t next);
  void wake();
  // Sleeps for `patience` at most while the value is `seen`.
  void sleep(uint32_t seen, std::chrono::milliseconds patience);
};

// A message as words, which may be read while they are written: then the number tells.
struct Said {
  std::atomic<uint64_t> number{0};  // how many came before, plus one
  std::atomic<uint64_t> what{0};
  std::atomic<int64_t> count{0};

  void say(uint64_t as_number, const Message& message);
  Message message() const;
};

enum class Presence : uint32_t { kAbsent, kHere, kLeft };

struct RankBlock {
  Signal posted;             // chunks that lie ready
  std::array<Said, 2> said;  // of this rank's last two collectives
  Said now;                  // what it is in, for reports; number 0 between two
  std::atomic<Presence> presence{Presence::kAbsent};
  std::atomic<int32_t> process{0};
  std::atomic<uint64_t> born{0};
};

// From one rank to another, for exchanges.
struct Channel {
  Signal written;  // pieces
  Signal read;
  std::array<Said, 2> said;  // of the message that a piece belongs to
};

struct Header {
  std::atomic<uint64_t> magic{0};
  int32_t size = 0;
  int64_t chunk = 0;  // bytes a rank has room for; there are two
  int64_t piece = 0;  // bytes of a channel; there are two
  std::atomic<int32_t> attached{0};
  Signal complete;
  std::atomic<int32_t> failing{0};  // 1 + the rank that failed first
  std::atomic<int32_t> failed{0};   // the same, when its reason is there
  std::array<char, 512> reason{};
};

// Whether a process that had this start time still runs.
bool is_alive(int32_t process, uint64_t born);

class Segment {
 public:
  // Meets the others. Throws CollectiveError where that fails or takes too long.
  Segment(const std::string& group, const Meeting& meeting, const InterruptCheck& interrupt);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  Header& header() const { return *reinterpret_cast<Header*>(base_); }
  RankBlock& rank(int rank) const;
  Channel& channel(int from, int to) const;
  // Where a rank's chunk, or a channel's piece, of this number lies.
  char* chunk(int rank, uint32_t number) const;
  char* piece(int from, int to, uint32_t number) const;
  void leave();  // tells the others that this rank will not come any more

 private:
  void create(const Meeting& meeting);
  bool join(const std::string& group, const Meeting& meeting);
  void map(int file, size_t nbytes);
  void unmap();
  void move_in(int rank);
  std::string missing() const;

  int rank_;
  char* base_ = nullptr;
  size_t nbytes_ = 0;
};

}  // namespace deepseek::collective
