// Records the Python functions that a thread enters: what a trace may have read.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "bindings.h"

namespace deepseek::python {
namespace {

// A function entered again with another first argument or other cells can read other things.
using Entry = std::vector<const void*>;

struct Recording {
  std::vector<std::string> ignore;
  std::vector<std::string> keep;
  Py_tracefunc previous = nullptr;
  py::object previous_argument;
  py::list found;
  std::unordered_map<PyObject*, bool> wanted;  // by code object, which `codes` keeps alive
  std::vector<py::object> codes;
  std::set<Entry> seen;
  std::set<PyCodeObject*> importers;   // of `wanted`, the code of Python's import system
  PyFrameObject* importing = nullptr;  // the outermost frame of an import that goes on
};

constexpr const char* kCapsule = "deepseek.recording";
constexpr const char* kImporter = "<frozen importlib.";

Recording& recording_of(PyObject* capsule) {
  return *static_cast<Recording*>(PyCapsule_GetPointer(capsule, kCapsule));
}

bool is_wanted(Recording& recording, PyCodeObject* code) {
  auto* key = reinterpret_cast<PyObject*>(code);
  const auto [entry, added] = recording.wanted.emplace(key, true);
  if (added) {
    recording.codes.push_back(py::reinterpret_borrow<py::object>(key));
    // As the system spells it: a name need not be UTF-8.
    const py::bytes bytes =
        py::reinterpret_steal<py::bytes>(PyUnicode_EncodeFSDefault(code->co_filename));
    if (!bytes) {
      throw py::error_already_set();
    }
    const auto file = static_cast<std::string>(bytes);
    const auto starts = [&](const std::string& prefix) { return file.starts_with(prefix); };
    entry->second = std::ranges::none_of(recording.ignore, starts) ||
                    std::ranges::any_of(recording.keep, starts);
    if (starts(kImporter)) {
      recording.importers.insert(code);
    }
  }
  return entry->second;
}

void record(Recording& recording, PyFrameObject* frame) {
  const auto code =
      py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(PyFrame_GetCode(frame)));
  auto* code_object = reinterpret_cast<PyCodeObject*>(code.ptr());
  const bool wanted = is_wanted(recording, code_object);
  if (recording.importers.contains(code_object)) {
    recording.importing = frame;
  }
  if (!wanted || recording.importing != nullptr) {
    return;
  }
  // The frame's own mapping changes while the function runs, so it is copied.
  const auto frame_locals = py::reinterpret_steal<py::object>(PyFrame_GetLocals(frame));
  if (!frame_locals) {
    throw py::error_already_set();
  }
  py::dict locals;
  if (PyDict_Update(locals.ptr(), frame_locals.ptr()) != 0) {
    throw py::error_already_set();
  }
  Entry entry = {code.ptr()};
  const auto add = [&](py::handle name) {
    entry.push_back(PyDict_GetItemWithError(locals.ptr(), name.ptr()));
  };
  if (code_object->co_argcount > 0) {
    const py::tuple names = code.attr("co_varnames");
    // A comprehension's only argument is its iterator, which says nothing.
    if (!py::cast<std::string>(names[0]).starts_with(".")) {
      add(names[0]);
    }
  }
  for (const py::handle name : py::cast<py::tuple>(code.attr("co_freevars"))) {
    add(name);
  }
  if (recording.seen.insert(std::move(entry)).second) {
    const auto globals = py::reinterpret_steal<py::object>(PyFrame_GetGlobals(frame));
    recording.found.append(py::make_tuple(code, globals, locals));
  }
}

int on_event(PyObject* capsule, PyFrameObject* frame, int what, PyObject* argument) {
  Recording& recording = recording_of(capsule);
  // A module is made once: what that reads is not what the function read.
  if (recording.importing != nullptr) {
    if (what == PyTrace_RETURN && frame == recording.importing) {
      recording.importing = nullptr;
    }
  } else if (what == PyTrace_CALL) {
    try {
      record(recording, frame);
    } catch (py::error_already_set& error) {
      error.restore();
      return -1;
    } catch (...) {  // there is C code between here and who could catch it
      py::detail::try_translate_exceptions();
      return -1;
    }
  }
  if (recording.previous != nullptr) {
    return recording.previous(recording.previous_argument.ptr(), frame, what, argument);
  }
  return 0;
}

// Open recordings of this thread, innermost last. Never destroyed: a thread that ends in the middle
// of one no longer has the GIL.
std::vector<py::object>& open_recordings() {
  static thread_local auto* const stack = new std::vector<py::object>;
  return *stack;
}

void start(std::vector<std::string> ignore, std::vector<std::string> keep) {
  auto* recording = new Recording;
  recording->ignore = std::move(ignore);
  recording->keep = std::move(keep);
  const PyThreadState* state = PyThreadState_Get();
  recording->previous = state->c_profilefunc;
  recording->previous_argument = py::reinterpret_borrow<py::object>(state->c_profileobj);
  const py::capsule capsule(recording, kCapsule, [](PyObject* object) {
    delete static_cast<Recording*>(PyCapsule_GetPointer(object, kCapsule));
  });
  open_recordings().push_back(capsule);
  PyEval_SetProfile(on_event, capsule.ptr());
}

py::list stop() {
  if (open_recordings().empty()) {
    throw std::runtime_error("stop_recording_calls: no recording is open on this thread");
  }
  const py::object capsule = std::move(open_recordings().back());
  open_recordings().pop_back();
  Recording& recording = recording_of(capsule.ptr());
  PyEval_SetProfile(recording.previous, recording.previous_argument.ptr());
  return std::move(recording.found);
}

// Between these two the innermost recording sees nothing.
void pause() {
  if (!open_recordings().empty()) {
    Recording& recording = recording_of(open_recordings().back().ptr());
    PyEval_SetProfile(recording.previous, recording.previous_argument.ptr());
  }
}

void resume() {
  if (!open_recordings().empty()) {
    PyEval_SetProfile(on_event, open_recordings().back().ptr());
  }
}

}  // namespace

void bind_call_recording(py::module_& module) {
  module.def("start_recording_calls", &start, py::arg("ignore") = py::tuple(),
             py::arg("keep") = py::tuple());
  module.def("stop_recording_calls", &stop);
  module.def("pause_recording_calls", &pause);
  module.def("resume_recording_calls", &resume);
}

}  // namespace deepseek::python
