// Code: an ELF64 x86-64 relocatable object (PIC, small code model), loaded into memory.
//
// All sections lie in one mapping, never writable and executable at once. Outside symbols other
// than memset, memcpy and memmove are refused by name, and so is any damage in the file.
#pragma once

#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>

namespace deepseek {

class LoadError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Code {
 public:
  Code(const void* data, size_t nbytes);
  ~Code();
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  // Address of a global symbol; nullptr if there is none of that name.
  void* symbol(std::string_view name) const;
  const std::map<std::string, void*, std::less<>>& symbols() const { return symbols_; }
  size_t nbytes() const { return mapped_bytes_; }

 private:
  char* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
  std::map<std::string, void*, std::less<>> symbols_;
};

}  // namespace deepseek
