// Compares plain values, and containers of them with what guards.copied made of them.
#include <bit>
#include <cmath>

#include "dispatch.h"

namespace deepseek::python {
namespace {

bool same_float(double a, double b) {
  return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

// What C has no shorter way for: guards.same.
bool ask_python(PyObject* object, PyObject* expected) {
  const py::object answer =
      checked(PyObject_CallFunctionObjArgs(frontend.same, object, expected, nullptr));
  return answer.ptr() == Py_True;
}

bool same_dict(PyObject* dict, PyObject* parts) {
  const Py_ssize_t count = PyList_GET_SIZE(parts);
  Py_ssize_t next = 0;
  return PyDict_GET_SIZE(dict) == count &&
         each_entry(dict,
                    [&](PyObject* key, PyObject* value) {
                      if (next == count) {
                        return false;  // it grew meanwhile
                      }
                      PyObject* pair = PyList_GET_ITEM(parts, next++);
                      return same_plain(key, PyTuple_GET_ITEM(pair, 0)) &&
                             same_copy(value, PyTuple_GET_ITEM(pair, 1));
                    }) &&
         next == count;
}

bool same_sequence(PyObject* sequence, PyObject* parts) {
  const Py_ssize_t count = PyList_GET_SIZE(parts);
  const bool tuple = PyTuple_CheckExact(sequence);
  for (Py_ssize_t i = 0; i < count; ++i) {
    // A comparison may shorten a list.
    if ((tuple ? PyTuple_GET_SIZE(sequence) : PyList_GET_SIZE(sequence)) != count) {
      return false;
    }
    const auto part = py::reinterpret_borrow<py::object>(tuple ? PyTuple_GET_ITEM(sequence, i)
                                                               : PyList_GET_ITEM(sequence, i));
    if (!same_copy(part.ptr(), PyList_GET_ITEM(parts, i))) {
      return false;
    }
  }
  return (tuple ? PyTuple_GET_SIZE(sequence) : PyList_GET_SIZE(sequence)) == count;
}

}  // namespace

bool same_plain(PyObject* object, PyObject* expected) {
  if (object == expected) {
    return true;
  }
  if (Py_TYPE(object) != Py_TYPE(expected) || PyBool_Check(expected)) {
    return false;
  }
  if (PyFloat_CheckExact(object)) {
    return same_float(PyFloat_AS_DOUBLE(object), PyFloat_AS_DOUBLE(expected));
  }
  if (PyUnicode_CheckExact(object)) {
    return PyUnicode_Compare(object, expected) == 0;
  }
  if (PyLong_CheckExact(object) || PyBytes_CheckExact(object)) {
    return PyObject_RichCompareBool(object, expected, Py_EQ) == 1;
  }
  return ask_python(object, expected);
}

bool same_copy(PyObject* object, PyObject* expected) {
  if (!PyTuple_CheckExact(expected)) {
    return same_plain(object, expected);
  }
  if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != PyTuple_GET_ITEM(expected, 0)) {
    return false;
  }
  PyObject* parts = PyTuple_GET_ITEM(expected, 1);
  if (PyDict_CheckExact(object)) {
    return same_dict(object, parts);
  }
  if (PyTuple_CheckExact(object) || PyList_CheckExact(object)) {
    return same_sequence(object, parts);
  }
  return ask_python(object, expected);
}

bool same_key(PyObject* key, PyObject* expected) {
  if (key == expected) {
    return true;
  }
  if (Py_TYPE(key) != Py_TYPE(expected)) {
    return false;
  }
  const bool plain = PyUnicode_CheckExact(key) || PyLong_CheckExact(key) ||
                     PyFloat_CheckExact(key) || PyBytes_CheckExact(key);
  return plain && same_plain(key, expected);
}

}  // namespace deepseek::python
