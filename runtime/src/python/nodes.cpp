// Makes nodes and their values: a recorded program, and every pass over it, is made of little else.
#include "frontend.h"

namespace deepseek::python {
namespace {

void fill(const py::object& object, Py_ssize_t offset, PyObject* borrowed) {
  slot(object.ptr(), offset) = Py_NewRef(borrowed);
}

py::object new_value(PyObject* node, PyObject* type, Py_ssize_t index) {
  py::object value = checked(frontend.value->tp_alloc(frontend.value, 0));
  fill(value, frontend.value_node, node);
  fill(value, frontend.value_index, checked(PyLong_FromSsize_t(index)).ptr());
  fill(value, frontend.value_type, type);
  fill(value, frontend.value_data, Py_None);
  fill(value, frontend.value_handle, Py_None);
  fill(value, frontend.value_requires_grad, Py_False);
  return value;
}

// make_node(op, inputs, attrs, types, line=None, form=None)
py::object new_node(PyObject* const* given, Py_ssize_t count) {
  if (count < 4 || count > 6 || !PyTuple_Check(given[1])) {
    throw py::type_error("make_node: wants op, a tuple of inputs, attrs, types, line and form");
  }
  const py::object types = checked(PySequence_Fast(given[3], "make_node: types is no sequence"));
  const py::object number = checked(PyIter_Next(frontend.sequence));
  py::object node = checked(frontend.node->tp_alloc(frontend.node, 0));
  fill(node, frontend.node_op, given[0]);
  fill(node, frontend.node_inputs, given[1]);
  fill(node, frontend.node_attrs, given[2]);
  fill(node, frontend.node_line, count > 4 ? given[4] : Py_None);
  fill(node, frontend.node_sequence, number.ptr());
  fill(node, frontend.node_form, count > 5 ? given[5] : Py_None);
  const Py_ssize_t outputs = PySequence_Fast_GET_SIZE(types.ptr());
  const py::object values = checked(PyTuple_New(outputs));
  for (Py_ssize_t i = 0; i < outputs; ++i) {
    py::object value = new_value(node.ptr(), PySequence_Fast_GET_ITEM(types.ptr(), i), i);
    PyTuple_SET_ITEM(values.ptr(), i, value.release().ptr());
  }
  fill(node, frontend.node_outputs, values.ptr());
  return node;
}

py::object new_output(PyObject* const* given, Py_ssize_t count) {
  if (count != 2) {
    throw py::type_error("make_value: wants a node and a type");
  }
  return new_value(given[0], given[1], 0);
}

template <py::object (*make)(PyObject* const*, Py_ssize_t)>
PyObject* called(PyObject*, PyObject* const* given, Py_ssize_t count) {
  try {
    return make(given, count).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (...) {
    py::detail::try_translate_exceptions();
  }
  return nullptr;
}

template <typename F>
PyCFunction fast(F* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef functions[] = {
    {"make_node", fast(called<new_node>), METH_FASTCALL, "A node whose output types are known."},
    {"make_value", fast(called<new_output>), METH_FASTCALL, "A value that a node gives."},
    {}};

}  // namespace

void bind_nodes(py::module_& module) {
  if (PyModule_AddFunctions(module.ptr(), functions) != 0) {
    fail();
  }
}

}  // namespace deepseek::python
