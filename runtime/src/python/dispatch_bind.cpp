// Binds a call that fits to its Program: the buffers of tensors, numbers and random draws; and
// which of them the Program may write over.
#include <cstring>

#include "dispatch.h"

namespace deepseek::python {
namespace {

template <typename T>
std::shared_ptr<Buffer> scalar(Source& input, T number) {
  if (!input.scalar || input.scalar.use_count() > 1) {
    input.scalar = Buffer::allocate(sizeof number, "number");
  }
  std::memcpy(input.scalar->data(), &number, sizeof number);
  return input.scalar;
}

std::shared_ptr<Buffer> number(Source& input, PyObject* object) {
  if (input.kind == Source::Kind::kFloat) {
    const double value = PyFloat_AsDouble(object);
    if (value == -1.0 && PyErr_Occurred() != nullptr) {
      fail();
    }
    return scalar(input, value);
  }
  const int64_t value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred() != nullptr) {
    fail();
  }
  return scalar(input, value);
}

std::string shown(PyObject* object) {
  return py::cast<std::string>(py::repr(object));
}

constexpr int64_t kMostDraws = int64_t{1} << 62;

int64_t draws_of(PyObject* generator) {
  const py::object draws = checked(PyObject_GetAttr(generator, names().draws));
  int overflow = 0;
  const int64_t count =
      PyLong_Check(draws.ptr()) ? PyLong_AsLongLongAndOverflow(draws.ptr(), &overflow) : -1;
  if (count < 0 || count > kMostDraws || overflow != 0) {
    throw py::value_error("ds.Generator: draws is " + shown(draws.ptr()) +
                          "; wanted a whole number from 0 to 2**62");
  }
  return count;
}

uint64_t seed_of(PyObject* generator) {
  const py::object seed = checked(PyObject_GetAttr(generator, names().seed));
  const uint64_t number = PyLong_Check(seed.ptr()) ? PyLong_AsUnsignedLongLong(seed.ptr()) : 0;
  if (!PyLong_Check(seed.ptr()) || PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw py::value_error("ds.Generator: seed is " + shown(seed.ptr()) +
                          "; wanted a whole number from 0 to 2**64 - 1");
  }
  return number;
}

void set_draws(PyObject* generator, int64_t draws) {
  const py::object count = checked(PyLong_FromLongLong(draws));
  if (PyObject_SetAttr(generator, names().draws, count.ptr()) != 0) {
    fail();
  }
}

std::shared_ptr<Buffer> not_a_tensor(Source& input, PyObject* object) {
  switch (input.kind) {
    case Source::Kind::kSeed:
      return scalar(input, seed_of(object));
    case Source::Kind::kDraw:
      return scalar(input, draws_of(object) + 1);
    default:
      return number(input, object);
  }
}

// Whether only the handle can see its value: counted are the handle's reference and, where the call
// keeps the values for later gradients, the call's.
bool is_alone(const Entry& entry, PyObject* value, PyObject* data, const Buffer& buffer) {
  return Py_REFCNT(value) == (entry.linked ? 2 : 1) && Py_REFCNT(data) == 1 &&
         buffer.exports() == 0;
}

}  // namespace

bool bind_inputs(Entry& entry, Frame& frame) {
  frame.buffers.assign(entry.inputs.size(), nullptr);
  for (size_t i = 0; i < entry.inputs.size(); ++i) {
    Source& input = entry.inputs[i];
    if (input.kind != Source::Kind::kTensor) {
      frame.buffers[i] = not_a_tensor(input, frame.objects[input.row]);
    }
  }
  py::object pending;
  for (size_t i = 0; i < entry.inputs.size(); ++i) {
    if (entry.inputs[i].kind != Source::Kind::kTensor) {
      continue;
    }
    PyObject* tensor = frame.objects[entry.inputs[i].row];
    PyObject* data = slot(value_of(tensor), frontend.value_data);
    if (data != Py_None) {
      frame.buffers[i] = as_buffer(data, "a tensor's data");
      continue;
    }
    if (!pending) {
      pending = py::list();
    }
    py::reinterpret_borrow<py::list>(pending).append(py::handle(tensor));
  }
  if (pending) {
    checked(PyObject_CallOneArg(frontend.settle, pending.ptr()));
  }
  return !pending;
}

void decide_donation(const Entry& entry, Frame& frame) {
  frame.donate.assign(entry.donated.empty() ? 0 : frame.buffers.size(), 0);
  for (const Donated& donated : entry.donated) {
    PyObject* handle = frame.objects[entry.inputs[donated.input].row];
    PyObject* value = value_of(handle);
    PyObject* data = slot(value, frontend.value_data);
    const auto& buffer = frame.buffers[donated.input];
    // Two holders: the Python object and the frame. Somebody may have given the handle another
    // value since it was bound.
    const bool ours = data != Py_None && as_buffer(data, "a tensor's data") == buffer &&
                      buffer.use_count() == 2 && is_alone(entry, value, data, *buffer) &&
                      (!donated.gradient || Py_REFCNT(handle) == donated.references);
    frame.donate[donated.input] = ours ? 1 : 0;
  }
}

void reserve_draws(const Entry& entry, Frame& frame) {
  frame.reserved.clear();
  for (const Draws& draws : entry.draws) {
    PyObject* generator = frame.objects[draws.row];
    const int64_t before = draws_of(generator);
    set_draws(generator, before + draws.count);
    frame.reserved.emplace_back(py::reinterpret_borrow<py::object>(generator), before);
  }
}

void return_draws(const Entry& entry, Frame& frame) {
  for (size_t i = 0; i < frame.reserved.size(); ++i) {
    const auto& [generator, before] = frame.reserved[i];
    if (draws_of(generator.ptr()) == before + entry.draws[i].count) {
      set_draws(generator.ptr(), before);
    }
  }
}

}  // namespace deepseek::python
