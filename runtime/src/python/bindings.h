// What the files of the Python extension share.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <span>

#include "deepseek/buffer.h"
#include "deepseek/collective.h"

namespace deepseek::python {

namespace py = pybind11;

void bind_buffer(py::module_& module);
void bind_program(py::module_& module);
void bind_collective(py::module_& module);
void bind_call_recording(py::module_& module);
void bind_dispatcher(py::module_& module);
void bind_nodes(py::module_& module);
void bind_walks(py::module_& module);

// The Buffer behind a Python object; TypeError names `what` if it is none.
const std::shared_ptr<Buffer>& as_buffer(py::handle object, const char* what);

// A message from its parts; ValueError for names that there are not.
Message to_message(const std::string& verb, const std::string& dtype, const std::string& reduction,
                   int peer, int source);

// A flat view of memory that `owner` keeps alive; counted among the owner's exports.
py::object make_view(std::shared_ptr<Buffer> owner, char* data, size_t nbytes, bool writable);

// Waits while a call of another thread is changing the buffer; whether it had to. Throws
// StillWriting where that would last for ever.
bool wait_while_claimed(const Buffer& buffer);

// The bytes of a C-contiguous object that supports the buffer protocol.
class Bytes {
 public:
  Bytes(py::handle object, const char* what);
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  std::span<const char> span() const {
    return {static_cast<const char*>(view_.buf), static_cast<size_t>(view_.len)};
  }

 private:
  Py_buffer view_;
};

}  // namespace deepseek::python
