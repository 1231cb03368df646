// What the dispatcher knows of the package's Python classes: their types, and where the slots lie
// in their instances.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>

#include "bindings.h"

namespace deepseek::python {

// Set once, by `configure_nodes`, `configure_graph` as far as `value_requires_grad`, and then by
// `configure_dispatch`.
struct Frontend {
  PyTypeObject* node = nullptr;
  PyTypeObject* value = nullptr;
  PyObject* sequence = nullptr;  // numbers nodes in the order they are recorded
  PyTypeObject* tensor = nullptr;
  PyObject* input_node = nullptr;  // the producer of values without a history
  PyObject* input_op = nullptr;    // its op
  PyObject* form = nullptr;        // what a node does to what types, as a number
  Py_ssize_t node_op = 0;
  Py_ssize_t node_inputs = 0;
  Py_ssize_t node_attrs = 0;
  Py_ssize_t node_outputs = 0;
  Py_ssize_t node_line = 0;
  Py_ssize_t node_sequence = 0;
  Py_ssize_t node_form = 0;
  Py_ssize_t tensor_value = 0;
  Py_ssize_t tensor_grad = 0;
  Py_ssize_t value_node = 0;
  Py_ssize_t value_index = 0;
  Py_ssize_t value_type = 0;
  Py_ssize_t value_data = 0;
  Py_ssize_t value_handle = 0;
  Py_ssize_t value_requires_grad = 0;
  PyTypeObject* generator = nullptr;
  PyTypeObject* array = nullptr;     // numpy.ndarray
  PyTypeObject* floating = nullptr;  // numpy.floating
  PyObject* missing = nullptr;       // stands for what is not there
  PyObject* structure = nullptr;     // counts the changes to Modules
  PyObject* recording = nullptr;     // per thread: the trace that goes on, gradients, autocast
  PyObject* options = nullptr;       // per thread
  PyObject* same = nullptr;          // compares plain values, and containers with their copies
  PyObject* same_array = nullptr;
  PyObject* as_tensor = nullptr;  // an array as a tensor
  PyObject* settle = nullptr;     // computes what pending tensors show
  PyObject* copy = nullptr;       // copies a container in depth
  PyObject* no_memory = nullptr;  // raises OutOfMemoryError, with the user's line
  Py_ssize_t type_dtype = 0;
  Py_ssize_t type_shape = 0;
};

extern Frontend frontend;

[[noreturn]] inline void fail() {
  throw py::error_already_set();
}

// A new reference, or the error that is set.
inline py::object checked(PyObject* owned) {
  if (owned == nullptr) {
    fail();
  }
  return py::reinterpret_steal<py::object>(owned);
}

inline PyObject*& slot(PyObject* object, Py_ssize_t offset) {
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
}

inline bool is_tensor(PyObject* object) {
  return PyObject_TypeCheck(object, frontend.tensor);
}

// The value that a tensor shows. A subclass may have left its tensors half made.
inline PyObject* value_of(PyObject* tensor) {
  PyObject* value = slot(tensor, frontend.tensor_value);
  if (value == nullptr || Py_TYPE(value) != frontend.value) {
    throw py::type_error(std::string("a ") + Py_TYPE(tensor)->tp_name +
                         " holds no value; wanted a tensor that Tensor.__init__ has made");
  }
  return value;
}

// The attribute names used at every call, interned.
struct Names {
  PyObject* trace = PyUnicode_InternFromString("trace");
  PyObject* grad = PyUnicode_InternFromString("grad");
  PyObject* autocast = PyUnicode_InternFromString("autocast");
  PyObject* backend = PyUnicode_InternFromString("backend");
  PyObject* cpu_level = PyUnicode_InternFromString("cpu_level");
  PyObject* version = PyUnicode_InternFromString("version");
  PyObject* seed = PyUnicode_InternFromString("seed");
  PyObject* draws = PyUnicode_InternFromString("draws");
  PyObject* differentiable = PyUnicode_InternFromString("differentiable");
};

const Names& names();

// Where a slot of a class lies in its instances.
Py_ssize_t slot_offset(const py::handle& type, const char* name);

}  // namespace deepseek::python
