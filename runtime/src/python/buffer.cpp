// Buffer and its views as Python types, with the buffer protocol written by hand: exports must be
// counted, which decides whether memory may be donated.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "bindings.h"
#include "deepseek/claims.h"
#include "gil.h"

namespace deepseek::python {
namespace {

// Memory with its owner; what a writable or partial memoryview holds on to.
struct View {
  std::shared_ptr<Buffer> owner;
  char* data;
  size_t nbytes;
  bool writable;
};

int fill_view(Py_buffer* view, PyObject* object, int flags, const std::shared_ptr<Buffer>& owner,
              char* data, size_t nbytes, bool writable) {
  if (PyBuffer_FillInfo(view, object, data, static_cast<Py_ssize_t>(nbytes), writable ? 0 : 1,
                        flags) != 0) {
    return -1;
  }
  owner->add_export();
  // The object may be gone from its owner's view when this is released, so the owner is kept.
  view->internal = new std::shared_ptr<Buffer>(owner);
  return 0;
}

void release_view(PyObject*, Py_buffer* view) {
  auto* owner = static_cast<std::shared_ptr<Buffer>*>(view->internal);
  (*owner)->drop_export();
  delete owner;
}

int get_buffer(PyObject* object, Py_buffer* view, int flags) {
  const auto& buffer = as_buffer(object, "object");
  try {
    wait_while_claimed(*buffer);
  } catch (py::error_already_set& error) {
    error.restore();
    view->obj = nullptr;
    return -1;
  } catch (...) {
    py::detail::try_translate_exceptions();
    view->obj = nullptr;
    return -1;
  }
  return fill_view(view, object, flags, buffer, buffer->data(), buffer->nbytes(), false);
}

int get_view_buffer(PyObject* object, Py_buffer* view, int flags) {
  const auto& held = py::cast<const View&>(py::handle(object));
  return fill_view(view, object, flags, held.owner, held.data, held.nbytes, held.writable);
}

void set_buffer_protocol(py::handle type, getbufferproc get) {
  auto* heap_type = reinterpret_cast<PyHeapTypeObject*>(type.ptr());
  heap_type->as_buffer.bf_getbuffer = get;
  heap_type->as_buffer.bf_releasebuffer = release_view;
  heap_type->ht_type.tp_as_buffer = &heap_type->as_buffer;
  PyType_Modified(&heap_type->ht_type);
}

PyTypeObject* buffer_type = nullptr;

std::shared_ptr<Buffer> allocate(py::ssize_t nbytes, std::string label) {
  if (nbytes < 0) {
    throw py::value_error("Buffer.allocate: nbytes must not be negative, got " +
                          std::to_string(nbytes));
  }
  return Buffer::allocate(static_cast<size_t>(nbytes), std::move(label));
}

void copy_bytes(Buffer& buffer, std::span<const char> bytes) {
  if (bytes.size() != buffer.nbytes()) {
    throw py::value_error("Buffer.copy_from: the buffer has " + std::to_string(buffer.nbytes()) +
                          " bytes, the data " + std::to_string(bytes.size()));
  }
  if (!bytes.empty()) {
    const WithoutGil release;
    std::memmove(buffer.data(), bytes.data(), bytes.size());
  }
}

}  // namespace

Bytes::Bytes(py::handle object, const char* what) {
  if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS) != 0) {
    if (PyErr_ExceptionMatches(PyExc_TypeError) == 0 &&
        PyErr_ExceptionMatches(PyExc_BufferError) == 0 &&
        PyErr_ExceptionMatches(PyExc_ValueError) == 0) {
      throw py::error_already_set();
    }
    PyErr_Clear();
    throw py::type_error(std::string(what) + ": wants a C-contiguous object with the buffer " +
                         "protocol, got " + Py_TYPE(object.ptr())->tp_name);
  }
}

const std::shared_ptr<Buffer>& as_buffer(py::handle object, const char* what) {
  if (Py_TYPE(object.ptr()) != buffer_type) {
    throw py::type_error(std::string(what) + ": wants a Buffer, got " +
                         Py_TYPE(object.ptr())->tp_name);
  }
  // The type is final and has one base, so the holder lies inside the instance, behind the pointer.
  auto* instance = reinterpret_cast<py::detail::instance*>(object.ptr());
  return *reinterpret_cast<const std::shared_ptr<Buffer>*>(instance->simple_value_holder + 1);
}

bool wait_while_claimed(const Buffer& buffer) {
  switch (claim_on(buffer)) {
    case Claim::kNone:
      return false;
    case Claim::kHere:
      if (readable_here()) {
        return false;
      }
      throw StillWriting();
    case Claim::kElsewhere:
      break;
  }
  wait_until([&] {
    if (waits_for_us(buffer)) {
      throw StillWriting();
    }
    return wait_for_claim(buffer, kPatience);
  });
  return true;
}

py::object make_view(std::shared_ptr<Buffer> owner, char* data, size_t nbytes, bool writable) {
  const py::object view = py::cast(View{std::move(owner), data, nbytes, writable});
  return py::reinterpret_steal<py::object>(PyMemoryView_FromObject(view.ptr()));
}

void bind_buffer(py::module_& module) {
  py::class_<View> view_class(module, "_View", py::is_final());
  set_buffer_protocol(view_class, get_view_buffer);

  py::class_<Buffer, std::shared_ptr<Buffer>> buffer_class(
      module, "Buffer", py::is_final(),
      "Untyped memory from the pool; supports the buffer protocol as read-only bytes.");
  buffer_class.def_static("allocate", &allocate, py::arg("nbytes"), py::arg("label") = "")
      .def_static(
          "copy_of",
          [](const py::object& data, std::string label) {
            const Bytes bytes(data, "Buffer.copy_of");
            auto buffer = Buffer::allocate(bytes.span().size(), std::move(label));
            copy_bytes(*buffer, bytes.span());
            return buffer;
          },
          py::arg("data"), py::arg("label") = "")
      .def_property_readonly("nbytes", &Buffer::nbytes)
      .def_property_readonly("ptr",
                             [](const Buffer& b) { return reinterpret_cast<uintptr_t>(b.data()); })
      .def_property_readonly("exports", &Buffer::exports)
      .def_property_readonly("version", &Buffer::version)
      .def_property("label", &Buffer::label, &Buffer::set_label)
      .def("writable_view",
           [](const std::shared_ptr<Buffer>& b) {
             return make_view(b, b->data(), b->nbytes(), true);
           })
      .def(
          "copy_from",
          [](Buffer& buffer, const py::object& data) {
            const Bytes bytes(data, "Buffer.copy_from");
            copy_bytes(buffer, bytes.span());
          },
          py::arg("data"))
      .def("__len__", &Buffer::nbytes)
      .def("__repr__", [](const Buffer& b) {
        return "<Buffer " + b.label() + (b.label().empty() ? "" : " ") +
               std::to_string(b.nbytes()) + " bytes>";
      });
  set_buffer_protocol(buffer_class, get_buffer);
  buffer_type = reinterpret_cast<PyTypeObject*>(buffer_class.ptr());
}

}  // namespace deepseek::python
