#include "deepseek/buffer.h"

#include "deepseek/pool.h"

namespace deepseek {

std::shared_ptr<Buffer> Buffer::allocate(size_t nbytes, std::string label) {
  return std::make_shared<Buffer>(Pool::global(), nbytes, std::move(label));
}

Buffer::Buffer(Memory& memory, size_t nbytes, std::string label) : memory_(memory) {
  memory_.acquire(block_, nbytes, std::move(label));
}

Buffer::~Buffer() {
  memory_.release(block_);
}

}  // namespace deepseek
