// Dispatcher: the Python type behind jitted functions. A call is held against the entries, the one
// used last first; where none fits, the Python subclass's `compile_for` makes one.
#include <pybind11/pybind11.h>
#include <structmember.h>

#include <algorithm>
#include <stdexcept>

#include "dispatch.h"

namespace deepseek::python {

Frontend frontend;

const Names& names() {
  static const Names* const interned = new Names;
  return *interned;
}

Py_ssize_t slot_offset(const py::handle& type, const char* name) {
  const py::object member = py::reinterpret_borrow<py::dict>(type.attr("__dict__"))[name];
  if (Py_TYPE(member.ptr()) != &PyMemberDescr_Type) {
    throw py::type_error(py::str(type).cast<std::string>() + ": " + name + " is not a slot");
  }
  return reinterpret_cast<PyMemberDescrObject*>(member.ptr())->d_member->offset;
}

namespace {

using Entries = std::vector<std::shared_ptr<Entry>>;

struct Dispatcher {
  PyObject_HEAD;
  vectorcallfunc vectorcall;
  PyObject* function;
  Entries* entries;
};

constexpr size_t kMostEntries = 256;

Dispatcher& dispatcher_of(PyObject* self) {
  return *reinterpret_cast<Dispatcher*>(self);
}

// ---- what a call depends on beside its arguments -----------------------------------------------

// The dicts behind the thread-local objects: looking them up costs more than all the guards of a
// small function. They live as long as the thread's Python state.
struct ThreadDicts {
  uint64_t thread = 0;
  PyObject* recording = nullptr;
  PyObject* options = nullptr;
};

PyObject* dict_of(PyObject* object) {
  const auto dict = py::reinterpret_steal<py::object>(PyObject_GetAttrString(object, "__dict__"));
  if (!dict) {
    fail();
  }
  return dict.ptr();  // the thread holds it
}

const ThreadDicts& thread_dicts() {
  static thread_local ThreadDicts dicts;
  const uint64_t thread = PyThreadState_GetID(PyThreadState_Get());
  if (dicts.thread != thread || dicts.recording == nullptr) {
    if (frontend.recording == nullptr) {
      throw std::runtime_error("configure_dispatch was not called");
    }
    dicts = {thread, dict_of(frontend.recording), dict_of(frontend.options)};
  }
  return dicts;
}

py::object get(PyObject* dict, PyObject* name) {
  PyObject* found = PyDict_GetItemWithError(dict, name);
  if (found == nullptr) {
    throw py::key_error(py::cast<std::string>(py::handle(name)));
  }
  return py::reinterpret_borrow<py::object>(found);
}

// ---- calling -----------------------------------------------------------------------------------

// Frames that no call uses; under the GIL.
std::vector<std::unique_ptr<Frame>> idle_frames;

class Lease {
 public:
  Lease() {
    if (idle_frames.empty()) {
      frame_ = std::make_unique<Frame>();
    } else {
      frame_ = std::move(idle_frames.back());
      idle_frames.pop_back();
    }
  }
  ~Lease() {
    frame_->clear();
    idle_frames.push_back(std::move(frame_));
  }
  Frame& frame() { return *frame_; }

 private:
  std::unique_ptr<Frame> frame_;
};

std::shared_ptr<Entry> find(Dispatcher& self, const Arguments& arguments, Frame& frame) {
  const ThreadDicts& dicts = thread_dicts();
  const py::object context[] = {
      get(dicts.options, names().backend), get(dicts.options, names().cpu_level),
      get(dicts.recording, names().grad), get(dicts.recording, names().autocast)};
  Entries& entries = *self.entries;
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::shared_ptr<Entry> entry = entries[i];  // a guard may run code that adds entries
    if (fits(*entry, arguments, context, frame)) {
      if (i > 0 && i < entries.size() && entries[i] == entry) {
        const auto at = entries.begin() + static_cast<long>(i);
        std::rotate(entries.begin(), at, at + 1);
      }
      return entry;
    }
  }
  return nullptr;
}

// The arguments as a Python call has them.
std::pair<py::tuple, py::dict> packed(const Arguments& arguments) {
  py::tuple positional(arguments.positional);
  for (size_t i = 0; i < arguments.positional; ++i) {
    positional[i] = py::handle(arguments.values[i]);
  }
  py::dict keywords;
  const Py_ssize_t named = arguments.keywords == nullptr ? 0 : PyTuple_GET_SIZE(arguments.keywords);
  for (Py_ssize_t i = 0; i < named; ++i) {
    keywords[py::handle(PyTuple_GET_ITEM(arguments.keywords, i))] =
        py::handle(arguments.values[arguments.positional + static_cast<size_t>(i)]);
  }
  return {positional, keywords};
}

// The error names the user's line, which Python knows.
[[noreturn]] void complain_of_memory(const Entry& entry, const Frame& frame, const char* what) {
  py::tuple sizes(frame.sizes.size());
  for (size_t i = 0; i < frame.sizes.size(); ++i) {
    sizes[i] = frame.sizes[i];
  }
  py::handle(frontend.no_memory)(entry.plan, sizes, what);
  throw std::logic_error("configure_dispatch: no_memory did not raise");
}

py::object run_or_complain(Entry& entry, Frame& frame) {
  try {
    return execute(entry, frame);
  } catch (const OutOfMemory& error) {
    complain_of_memory(entry, frame, error.what());
  }
}

// How often a call is compiled before it is an error that it still fits nothing: other threads may
// change what it reads.
constexpr int kMostAttempts = 3;

py::object dispatch(PyObject* object, const Arguments& arguments) {
  Dispatcher& self = dispatcher_of(object);
  Lease lease;
  int compiled = 0;
  while (true) {
    const std::shared_ptr<Entry> entry = find(self, arguments, lease.frame());
    if (entry) {
      py::object result = run_or_complain(*entry, lease.frame());
      if (result) {
        return result;
      }
      if (PyErr_CheckSignals() != 0) {
        fail();
      }
      continue;  // something had to be computed, or another call was writing
    }
    const auto [positional, keywords] = packed(arguments);
    const py::handle function = object;
    if (compiled == kMostAttempts) {
      function.attr("complain")(positional, keywords);
    }
    function.attr("compile_for")(positional, keywords);
    ++compiled;
  }
}

// Guards may run code that calls the function again.
class Depth {
 public:
  Depth() {
    if (Py_EnterRecursiveCall(" in a compiled function") != 0) {
      fail();
    }
  }
  ~Depth() { Py_LeaveRecursiveCall(); }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;
};

PyObject* vectorcall(PyObject* object, PyObject* const* args, size_t flags, PyObject* keywords) {
  try {
    const Depth depth;
    const auto positional = static_cast<size_t>(PyVectorcall_NARGS(flags));
    if (!get(thread_dicts().recording, names().trace).is_none()) {  // part of that trace
      return PyObject_Vectorcall(dispatcher_of(object).function, args, positional, keywords);
    }
    const bool named = keywords != nullptr && PyTuple_GET_SIZE(keywords) > 0;
    return dispatch(object, {args, positional, named ? keywords : nullptr}).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (...) {
    py::detail::try_translate_exceptions();
  }
  return nullptr;
}

// ---- the type ----------------------------------------------------------------------------------

PyObject* create(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* object = type->tp_alloc(type, 0);
  if (object != nullptr) {
    Dispatcher& self = dispatcher_of(object);
    self.vectorcall = vectorcall;
    self.function = Py_NewRef(Py_None);
    self.entries = new Entries;
    // Python grants vectorcall to the base only; no subclass may define __call__ of its own.
    type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
  }
  return object;
}

int initialize(PyObject* object, PyObject* args, PyObject* keywords) {
  PyObject* function = nullptr;
  const char* const known[] = {"function", nullptr};
  if (PyArg_ParseTupleAndKeywords(args, keywords, "O", const_cast<char**>(known), &function) == 0) {
    return -1;
  }
  PyObject* before = std::exchange(dispatcher_of(object).function, Py_NewRef(function));
  Py_XDECREF(before);
  return 0;
}

int traverse(PyObject* object, visitproc visit, void* arg) {
  const Dispatcher& self = dispatcher_of(object);
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(self.function);
  if (self.entries != nullptr) {
    for (const auto& entry : *self.entries) {
      if (entry.use_count() > 1) {
        continue;  // a call is using it
      }
      Py_VISIT(entry->plan.ptr());
      Py_VISIT(entry->runner.ptr());
      Py_VISIT(entry->prepared.ptr());
      if (entry->standing.use_count() == 1) {
        for (PyObject* standing : entry->standing->objects) {
          Py_VISIT(standing);
        }
      }
    }
  }
  return 0;
}

int clear(PyObject* object) {
  Dispatcher& self = dispatcher_of(object);
  Py_XSETREF(self.function, Py_NewRef(Py_None));  // it may still be called, by what goes with it
  if (self.entries != nullptr) {
    const Entries entries = std::exchange(*self.entries, {});
  }
  return 0;
}

void destroy(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  clear(object);
  Py_CLEAR(dispatcher_of(object).function);
  delete std::exchange(dispatcher_of(object).entries, nullptr);
  type->tp_free(object);
  Py_DECREF(type);
}

PyObject* bind_method(PyObject* object, PyObject* instance, PyObject*) {
  if (instance == nullptr || instance == Py_None) {
    return Py_NewRef(object);
  }
  return PyMethod_New(object, instance);
}

PyObject* add_entry(PyObject* object, PyObject* plan) {
  try {
    Entries& entries = *dispatcher_of(object).entries;
    std::shared_ptr<Entry> entry = make_entry(plan);
    const Entries dropped(
        entries.begin() + static_cast<long>(std::min(entries.size(), kMostEntries - 1)),
        entries.end());  // they go when all is in order again
    entries.resize(std::min(entries.size(), kMostEntries - 1));
    entries.insert(entries.begin(), std::move(entry));
    Py_RETURN_NONE;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (...) {
    py::detail::try_translate_exceptions();
  }
  return nullptr;
}

// The entry that a call fits, or None: match(args, kwargs).
PyObject* match(PyObject* object, PyObject* args) {
  PyObject* positional = nullptr;
  PyObject* keywords = nullptr;
  if (PyArg_ParseTuple(args, "O!O!", &PyTuple_Type, &positional, &PyDict_Type, &keywords) == 0) {
    return nullptr;
  }
  try {
    std::vector<PyObject*> values;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(positional); ++i) {
      values.push_back(PyTuple_GET_ITEM(positional, i));
    }
    py::list named;
    for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(keywords)) {
      named.append(name);
      values.push_back(value.ptr());
    }
    const py::tuple order(named);
    Lease lease;
    const std::shared_ptr<Entry> entry =
        find(dispatcher_of(object),
             {values.data(), static_cast<size_t>(PyTuple_GET_SIZE(positional)), order.ptr()},
             lease.frame());
    return entry ? Py_NewRef(entry->plan.ptr()) : Py_NewRef(Py_None);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (...) {
    py::detail::try_translate_exceptions();
  }
  return nullptr;
}

PyObject* get_entries(PyObject* object, void*) {
  PyObject* list = PyList_New(0);
  const Entries entries = *dispatcher_of(object).entries;
  for (const auto& entry : entries) {
    if (list == nullptr || PyList_Append(list, entry->plan.ptr()) != 0) {
      Py_XDECREF(list);
      return nullptr;
    }
  }
  return list;
}

PyMethodDef methods[] = {
    {"add_entry", add_entry, METH_O, "Add an entry of deepseek.compiler.entry, to be tried first."},
    {"match", match, METH_VARARGS, "match(args, kwargs): the entry that the call fits, or None."},
    {}};

PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Dispatcher, vectorcall), READONLY, nullptr},
    {"function", T_OBJECT, offsetof(Dispatcher, function), READONLY, "The plain function."},
    {}};

PyGetSetDef properties[] = {
    {"entries", get_entries, nullptr, "The entries, the one used last first.", nullptr}, {}};

template <typename F>
void* pointer(F* function) {
  return reinterpret_cast<void*>(function);
}

PyType_Slot slots[] = {{Py_tp_new, pointer(create)},
                       {Py_tp_init, pointer(initialize)},
                       {Py_tp_call, pointer(PyVectorcall_Call)},
                       {Py_tp_traverse, pointer(traverse)},
                       {Py_tp_clear, pointer(clear)},
                       {Py_tp_dealloc, pointer(destroy)},
                       {Py_tp_descr_get, pointer(bind_method)},
                       {Py_tp_methods, methods},
                       {Py_tp_members, members},
                       {Py_tp_getset, properties},
                       {0, nullptr}};

PyType_Spec spec = {
    "deepseek._runtime.Dispatcher", sizeof(Dispatcher), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    slots};

// ---- configuration -----------------------------------------------------------------------------

PyTypeObject* held_type(const py::object& type) {
  if (!PyType_Check(type.ptr())) {
    throw py::type_error("configure_dispatch: wants types");
  }
  return reinterpret_cast<PyTypeObject*>(Py_NewRef(type.ptr()));
}

PyObject* held(const py::object& object) {
  return Py_NewRef(object.ptr());
}

void configure_nodes(const py::object& node, const py::object& value, const py::object& sequence) {
  frontend.node = held_type(node);
  frontend.value = held_type(value);
  frontend.sequence = held(sequence);
  frontend.node_op = slot_offset(node, "op");
  frontend.node_inputs = slot_offset(node, "inputs");
  frontend.node_attrs = slot_offset(node, "attrs");
  frontend.node_outputs = slot_offset(node, "outputs");
  frontend.node_line = slot_offset(node, "line");
  frontend.node_sequence = slot_offset(node, "sequence");
  frontend.node_form = slot_offset(node, "form");
  frontend.value_node = slot_offset(value, "node");
  frontend.value_index = slot_offset(value, "index");
  frontend.value_type = slot_offset(value, "type");
  frontend.value_data = slot_offset(value, "data");
  frontend.value_handle = slot_offset(value, "handle");
  frontend.value_requires_grad = slot_offset(value, "requires_grad");
}

void configure_graph(const py::object& tensor, const py::object& input_node,
                     const py::object& form) {
  frontend.tensor = held_type(tensor);
  frontend.tensor_value = slot_offset(tensor, "_value");
  frontend.tensor_grad = slot_offset(tensor, "_grad");
  frontend.input_node = held(input_node);
  frontend.input_op = held(input_node.attr("op"));
  frontend.form = held(form);
}

void configure_dispatch(const py::object& tensor_type, const py::object& generator,
                        const py::object& array, const py::object& floating,
                        const py::object& missing, const py::object& structure,
                        const py::object& recording, const py::object& options,
                        const py::object& same, const py::object& same_array,
                        const py::object& as_tensor, const py::object& settle,
                        const py::object& copy, const py::object& no_memory) {
  frontend.generator = held_type(generator);
  frontend.array = held_type(array);
  frontend.floating = held_type(floating);
  frontend.missing = held(missing);
  frontend.structure = held(structure);
  frontend.recording = held(recording);
  frontend.options = held(options);
  frontend.same = held(same);
  frontend.same_array = held(same_array);
  frontend.as_tensor = held(as_tensor);
  frontend.settle = held(settle);
  frontend.copy = held(copy);
  frontend.no_memory = held(no_memory);
  frontend.type_dtype = slot_offset(tensor_type, "dtype");
  frontend.type_shape = slot_offset(tensor_type, "shape");
}

}  // namespace

void bind_dispatcher(py::module_& module) {
  const auto type = py::reinterpret_steal<py::object>(PyType_FromSpec(&spec));
  if (!type) {
    fail();
  }
  module.attr("Dispatcher") = type;
  module.def("configure_nodes", &configure_nodes, py::kw_only(), py::arg("node"), py::arg("value"),
             py::arg("sequence"));
  module.def("configure_graph", &configure_graph, py::kw_only(), py::arg("tensor"),
             py::arg("input_node"), py::arg("form"));
  module.def("configure_dispatch", &configure_dispatch, py::kw_only(), py::arg("tensor_type"),
             py::arg("generator"), py::arg("array"), py::arg("floating"), py::arg("missing"),
             py::arg("structure"), py::arg("recording"), py::arg("options"), py::arg("same"),
             py::arg("same_array"), py::arg("as_tensor"), py::arg("settle"), py::arg("copy"),
             py::arg("no_memory"));
}

}  // namespace deepseek::python
