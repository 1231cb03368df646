#include "deepseek/buffer.h"

namespace deepseek {

std::shared_ptr<Buffer> Buffer::allocate(size_t nbytes, std::string label) {
  return std::make_shared<Buffer>(Pool::global(), nbytes, std::move(label));
}

Buffer::Buffer(Pool& pool, size_t nbytes, std::string label) : pool_(pool) {
  pool_.acquire(block_, nbytes, std::move(label));
}

Buffer::~Buffer() {
  pool_.release(block_);
}

}  // namespace deepseek
