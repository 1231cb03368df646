// Shows a call's outputs: in the handles that the call gives other values or gradients, and in what
// it returns.
#include <pybind11/stl.h>

#include "dispatch.h"

namespace deepseek::python {
namespace {

py::object make_weak(PyObject* tensor) {
  return checked(PyWeakref_NewRef(tensor, nullptr));
}

// The slot's object is given to `dropped`, since letting go of it may run anybody's code.
void put(PyObject* object, Py_ssize_t offset, py::object owned, References& dropped) {
  PyObject* before = std::exchange(slot(object, offset), owned.release().ptr());
  if (before != nullptr) {
    dropped.take(before);
  }
}

// Lets a tensor show a value that was just made.
void show(PyObject* tensor, py::object value, References& dropped) {
  put(value.ptr(), frontend.value_handle, make_weak(tensor), dropped);
  put(tensor, frontend.tensor_value, std::move(value), dropped);
}

py::object make_tensor(py::object value, References& dropped) {
  py::object tensor = checked(frontend.tensor->tp_alloc(frontend.tensor, 0));
  slot(tensor.ptr(), frontend.tensor_grad) = Py_NewRef(Py_None);
  show(tensor.ptr(), std::move(value), dropped);
  return tensor;
}

bool shows(PyObject* tensor, const std::shared_ptr<Buffer>& buffer) {
  PyObject* data = slot(value_of(tensor), frontend.value_data);
  return data != Py_None && as_buffer(data, "a tensor's data") == buffer;
}

}  // namespace

py::object make_value(PyObject* type, const std::shared_ptr<Buffer>& data,
                      PyObject* requires_grad) {
  py::object value = checked(frontend.value->tp_alloc(frontend.value, 0));
  slot(value.ptr(), frontend.value_node) = Py_NewRef(frontend.input_node);
  slot(value.ptr(), frontend.value_index) = checked(PyLong_FromLong(0)).release().ptr();
  slot(value.ptr(), frontend.value_type) = Py_NewRef(type);
  slot(value.ptr(), frontend.value_data) = py::cast(data).release().ptr();
  slot(value.ptr(), frontend.value_handle) = Py_NewRef(Py_None);
  slot(value.ptr(), frontend.value_requires_grad) = Py_NewRef(requires_grad);
  return value;
}

// Whether the output lies in the buffer that the tensor shows already: nothing is to be done.
bool Results::in_place(size_t output, PyObject* tensor) const {
  const size_t donor = entry_.donors[output];
  return donor != kNone && frame_.donate[donor] != 0 && outputs_[output] == frame_.buffers[donor] &&
         shows(tensor, outputs_[output]);
}

py::object Results::value(size_t output, PyObject* requires_grad) const {
  return make_value(frame_.admitted->types[output], outputs_[output], requires_grad);
}

void Results::rebind() {
  size_t next = 0;
  for (const Rebound& rebound : entry_.rebound) {
    PyObject* handle = frame_.handles[next++];
    if (slot(value_of(handle), frontend.value_requires_grad) != rebound.requires_grad ||
        !in_place(rebound.output, handle)) {
      show(handle, value(rebound.output, rebound.requires_grad), frame_.dropped);
    }
  }
  for (const Gradient& gradient : entry_.grads) {
    PyObject* handle = frame_.handles[next++];
    PyObject* now = slot(handle, frontend.tensor_grad);
    if (gradient.output == kNone) {
      put(handle, frontend.tensor_grad, py::reinterpret_borrow<py::object>(gradient.other),
          frame_.dropped);
    } else if (now == nullptr || !is_tensor(now) || !in_place(gradient.output, now)) {
      py::object made = make_tensor(value(gradient.output, Py_False), frame_.dropped);
      put(handle, frontend.tensor_grad, std::move(made), frame_.dropped);
    }
  }
}

py::object Results::build() {
  for (const auto& [output, requires_grad] : entry_.returned) {
    tensors_.push_back(make_tensor(value(output, requires_grad), frame_.dropped));
  }
  return part();
}

py::object Results::part() {
  const Item& item = entry_.result[at_++];
  switch (item.kind) {
    case Item::Kind::kTensor:
      return tensors_[next_tensor_++];
    case Item::Kind::kSize:
      return py::reinterpret_borrow<py::object>(frame_.admitted->sizes[next_size_++]);
    case Item::Kind::kSequence:
      return sequence(item);
    case Item::Kind::kDict:
      return dict(item);
    case Item::Kind::kCopied:
      return checked(PyObject_CallOneArg(frontend.copy, item.object));
    default:
      return py::reinterpret_borrow<py::object>(item.object);
  }
}

py::object Results::sequence(const Item& item) {
  py::tuple parts(item.count);
  for (size_t i = 0; i < item.count; ++i) {
    parts[i] = part();
  }
  if (item.object == reinterpret_cast<PyObject*>(&PyTuple_Type)) {
    return parts;
  }
  const py::handle type = item.object;
  return py::hasattr(type, "_fields") ? type(*parts) : type(parts);
}

py::object Results::dict(const Item& item) {
  py::object dict = py::handle(item.object)();
  for (const Item::Key& key : item.keys) {
    const py::object value = part();
    if (PyObject_SetItem(dict.ptr(), key.object, value.ptr()) != 0) {
      fail();
    }
  }
  return dict;
}

}  // namespace deepseek::python
