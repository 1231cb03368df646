#include <algorithm>
#include <cstring>
#include <limits>

#include "deepseek/cuda_memory.h"

namespace deepseek::cuda {

// ---- the pool ----------------------------------------------------------------------------------

StreamPool::StreamPool(Device& device, Kind kind)
    : Memory(kind == Kind::kDevice ? device.index() : kHost), of_(device), kind_(kind) {
  stats_.physical = kind == Kind::kDevice ? device.properties().total_memory
                                          : std::numeric_limits<size_t>::max() / 4;
}

void StreamPool::acquire(LiveBlock& block, size_t nbytes, std::string label) {
  std::lock_guard lock(mutex_);
  of_.activate();
  Stream* stream = kind_ == Kind::kDevice ? &of_.current_stream() : nullptr;
  const size_t limit = effective_limit();
  if (nbytes > limit || stats_.in_use + nbytes > limit) {
    refuse(nbytes);
  }
  const size_t capacity = size_class(nbytes, kSmallest, kLarge, kPage);
  collect();
  if (take(block, capacity, stream)) {
    ++stats_.cache_hits;
  } else {
    while (stats_.in_use + nbytes + stats_.cached > limit && evict_oldest()) {
    }
    block.data = allocate(capacity);
    if (block.data == nullptr) {
      ++stats_.retries;
      evict_all();
      block.data = allocate(capacity);
    }
    if (block.data == nullptr) {
      refuse(nbytes);
    }
    block.capacity = capacity;
    stats_.reserved += capacity;
  }
  block.stream = stream;
  enter(block, nbytes, std::move(label));
}

void StreamPool::refuse(size_t nbytes) {
  ++stats_.failures;
  std::string text = describe_failure(nbytes);
  if (kind_ == Kind::kDevice && !stats_.limit) {
    text += "\n  the driver has " + human(of_.free_memory()) +
            " left; what is missing is held by other libraries and processes (see `nvidia-smi`)";
  }
  throw OutOfMemory(std::move(text));
}

// A large request also takes a block up to a quarter larger.
bool StreamPool::take(LiveBlock& block, size_t capacity, Stream* stream) {
  const size_t most = capacity >= kLarge ? capacity + capacity / 4 : capacity;
  for (auto it = free_.lower_bound({stream, capacity});
       it != free_.end() && it->first.first == stream && it->first.second <= most; ++it) {
    if (!it->second.empty()) {
      block.data = it->second.back().data;
      block.capacity = it->second.back().capacity;
      it->second.pop_back();
      stats_.cached -= block.capacity;
      return true;
    }
  }
  return false;
}

// Blocks that no stream is using any more become free.
void StreamPool::collect() {
  for (size_t i = 0; i < pending_.size();) {
    auto& events = pending_[i].events;
    while (!events.empty() && events.back()->done()) {
      events.pop_back();
    }
    if (!events.empty()) {
      ++i;
      continue;
    }
    Free& block = pending_[i];
    auto& list = free_[{block.stream, block.capacity}];
    list.reserve(list.size() + 1);
    list.push_back(std::move(block));
    pending_[i] = std::move(pending_.back());
    pending_.pop_back();
  }
}

void StreamPool::release(LiveBlock& block) noexcept {
  std::lock_guard lock(mutex_);
  leave(block);
  try {
    of_.activate();
    Free freed{block.data, block.capacity, static_cast<Stream*>(block.stream), ++clock_, {}};
    if (const auto found = users_.find(block.data); found != users_.end()) {
      for (Stream* stream : found->second) {
        freed.events.push_back(std::make_unique<Event>(stream->device(), false));
        freed.events.back()->record(*stream);
      }
      users_.erase(found);
    }
    if (freed.events.empty()) {
      free_[{freed.stream, freed.capacity}].push_back(std::move(freed));
    } else {
      pending_.push_back(std::move(freed));
    }
    stats_.cached += block.capacity;
  } catch (const std::exception&) {
    // The device is lost, and its memory with it; or this is a child of the process that has it.
    users_.erase(block.data);
    stats_.reserved -= block.capacity;
  }
}

void StreamPool::note_use(const void* data, Stream& stream) {
  std::lock_guard lock(mutex_);
  auto& streams = users_[data];
  if (std::find(streams.begin(), streams.end(), &stream) == streams.end()) {
    streams.push_back(&stream);
  }
}

void* StreamPool::allocate(size_t capacity) {
  void* data = nullptr;
  Address found = 0;
  const Result result = kind_ == Kind::kDevice
                            ? driver().memory_allocate(&found, capacity)
                            : driver().host_allocate(&data, capacity, kHostPortable);
  if (result == kOutOfMemory) {
    return nullptr;
  }
  of_.check(result, kind_ == Kind::kDevice ? "cuMemAlloc" : "cuMemHostAlloc");
  return kind_ == Kind::kDevice ? reinterpret_cast<void*>(found) : data;
}

// To the driver, when nothing uses it.
void StreamPool::give_back(Free block) {
  stats_.cached -= block.capacity;
  stats_.reserved -= block.capacity;
  for (const auto& event : block.events) {
    event->synchronize();
  }
  if (block.stream != nullptr) {
    block.stream->synchronize();
  }
  if (kind_ == Kind::kDevice) {
    of_.check(driver().memory_free(address(block.data)), "cuMemFree");
  } else {
    of_.check(driver().host_free(block.data), "cuMemFreeHost");
  }
}

bool StreamPool::evict_oldest() {
  auto oldest = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (!it->second.empty() &&
        (oldest == free_.end() || it->second.front().stamp < oldest->second.front().stamp)) {
      oldest = it;
    }
  }
  if (oldest == free_.end()) {
    return false;
  }
  Free block = std::move(oldest->second.front());
  oldest->second.erase(oldest->second.begin());
  give_back(std::move(block));
  return true;
}

size_t StreamPool::evict_all() {
  const size_t before = stats_.reserved;
  while (evict_oldest()) {
  }
  while (!pending_.empty()) {
    Free block = std::move(pending_.back());
    pending_.pop_back();
    give_back(std::move(block));
  }
  free_.clear();
  return before - stats_.reserved;
}

size_t StreamPool::empty_cache() {
  std::lock_guard lock(mutex_);
  of_.activate();
  return evict_all();
}

void StreamPool::set_limit(std::optional<size_t> nbytes) {
  std::lock_guard lock(mutex_);
  stats_.limit = nbytes;
  while (stats_.in_use + stats_.cached > effective_limit() && evict_oldest()) {
  }
}

std::shared_ptr<Buffer> allocate(Device& device, size_t nbytes, std::string label) {
  return std::make_shared<Buffer>(device.memory(), nbytes, std::move(label));
}

void use_on(const Buffer& buffer, Stream& stream) {
  auto* own = static_cast<Stream*>(buffer.stream());
  if (own != &stream) {
    own->device().memory().note_use(buffer.data(), stream);
    stream.wait(*own);
  }
}

// ---- copies ------------------------------------------------------------------------------------

namespace {

// Smaller copies the driver makes through memory of its own; larger ones go through ours in parts,
// so that the host's copying and the device's overlap.
constexpr size_t kDirect = size_t{64} << 10;
constexpr size_t kPart = size_t{4} << 20;

std::unique_ptr<Buffer> part_of(Device& device, size_t nbytes) {
  return std::make_unique<Buffer>(device.pinned(), std::min(nbytes, kPart), "copies");
}

void copy_between(const Buffer& from, const Buffer& to) {
  auto& source = *static_cast<Stream*>(from.stream());
  auto& target = *static_cast<Stream*>(to.stream());
  use_on(to, source);
  Device& device = source.device();
  device.activate();
  const Result result =
      &device == &target.device()
          ? driver().copy_on_device(address(to.data()), address(from.data()), from.nbytes(),
                                    source.handle())
          : driver().copy_between_devices(address(to.data()), target.device().context(),
                                          address(from.data()), device.context(), from.nbytes(),
                                          source.handle());
  device.check(result, "cuMemcpy",
               "a copy from " + device.name() + " to " + target.device().name());
  target.wait(source);
}

}  // namespace

void to_device(Stream& stream, Address to, const char* from, size_t nbytes) {
  Device& device = stream.device();
  device.activate();
  if (nbytes < kDirect) {
    if (nbytes > 0) {
      device.check(driver().copy_to_device(to, from, nbytes, stream.handle()), "cuMemcpyHtoDAsync",
                   "a copy to " + device.name());
    }
    return;
  }
  for (size_t at = 0; at < nbytes; at += kPart) {
    const size_t count = std::min(kPart, nbytes - at);
    const auto part = part_of(device, count);
    std::memcpy(part->data(), from + at, count);
    device.check(driver().copy_to_device(to + at, part->data(), count, stream.handle()),
                 "cuMemcpyHtoDAsync", "a copy to " + device.name());
    device.pinned().note_use(part->data(), stream);
  }
}

void to_host(Stream& stream, char* to, Address from, size_t nbytes) {
  Device& device = stream.device();
  device.activate();
  const auto start = [&](char* place, size_t at, size_t count) {
    device.check(driver().copy_to_host(place, from + at, count, stream.handle()),
                 "cuMemcpyDtoHAsync");
  };
  if (nbytes < kDirect) {
    if (nbytes > 0) {
      start(to, 0, nbytes);
    }
    stream.synchronize();
    return;
  }
  struct Part {
    std::unique_ptr<Buffer> buffer;
    Event arrived;
    size_t at = 0;
    size_t count = 0;
  };
  Part parts[2] = {{part_of(device, nbytes), Event(device, false)},
                   {part_of(device, nbytes), Event(device, false)}};
  const auto finish = [&](const Part& part) {
    if (part.count > 0) {
      part.arrived.synchronize();
      std::memcpy(to + part.at, part.buffer->data(), part.count);
    }
  };
  size_t turn = 0;
  for (size_t at = 0; at < nbytes; at += kPart, turn ^= 1) {
    Part& part = parts[turn];
    finish(part);
    part.at = at;
    part.count = std::min(kPart, nbytes - at);
    device.pinned().note_use(part.buffer->data(), stream);
    start(part.buffer->data(), at, part.count);
    part.arrived.record(stream);
  }
  finish(parts[turn]);
  finish(parts[turn ^ 1]);
}

std::shared_ptr<Buffer> copied(const Buffer& buffer, int device) {
  if (device == kHost) {
    auto made = Buffer::allocate(buffer.nbytes(), buffer.label());
    if (buffer.device() == kHost) {
      std::memcpy(made->data(), buffer.data(), buffer.nbytes());
    } else {
      to_host(*static_cast<Stream*>(buffer.stream()), made->data(), address(buffer.data()),
              buffer.nbytes());
    }
    return made;
  }
  Device& target = Device::get(device);
  auto made = allocate(target, buffer.nbytes(), buffer.label());
  if (buffer.device() == kHost) {
    to_device(*static_cast<Stream*>(made->stream()), address(made->data()), buffer.data(),
              buffer.nbytes());
  } else if (buffer.nbytes() > 0) {
    copy_between(buffer, *made);
  }
  return made;
}

}  // namespace deepseek::cuda
