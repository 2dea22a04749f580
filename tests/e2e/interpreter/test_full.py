"""The full edition: every language passes the same tests, and Java trusts the site's
certificate authority. `scripts/e2e interpreter-full` runs it; the template takes far
longer to make than the small one."""

import os
from typing import Any, Iterator, NamedTuple

import pytest
from e2b import TimeoutException

pytestmark = pytest.mark.skipif(
    os.environ.get("HEARTH_E2E_EDITION") != "full", reason="the full edition was not prepared"
)
# Kernels of Java and R start slowly on emulated processors.
SECONDS = 300


class Language(NamedTuple):
    name: str
    keep: str
    use: str
    say: str
    fail: str
    # The name that the error has, or a part of what it says.
    failure: str
    # Prints the variables OF_SANDBOX and OWN, `-` for one that is not set.
    variables: str
    # Prints the user's name and the working directory.
    place: str
    endless: str


LANGUAGES = [
    Language(
        "python", "kept = 20", "print(kept + 1)", "print('hello')", "undefined_name", "NameError",
        "import os; print(os.environ.get('OF_SANDBOX', '-'), os.environ.get('OWN', '-'))",
        "import getpass, os; print(getpass.getuser(), os.getcwd())",
        "while True: pass",
    ),
    Language(
        "javascript", "let kept = 20", "console.log(kept + 1)", "console.log('hello')",
        "undefinedName", "ReferenceError",
        "console.log(process.env.OF_SANDBOX ?? '-', process.env.OWN ?? '-')",
        "import os from 'node:os'\nconsole.log(os.userInfo().username, process.cwd())",
        "for (;;) {}",
    ),
    Language(
        "typescript", "let kept: number = 20", "console.log(kept + (1 as number))",
        "console.log('hello' as string)", "undefinedName", "ReferenceError",
        "console.log(process.env.OF_SANDBOX ?? '-', process.env.OWN ?? '-')",
        "import os from 'node:os'\nconsole.log(os.userInfo().username, process.cwd())",
        "for (;;) {}",
    ),
    Language(
        "bash", "kept=20", "echo $((kept + 1))", "echo hello", "ls /nowhere", "",
        "echo ${OF_SANDBOX:--} ${OWN:--}", "echo $(id -un) $PWD", "while :; do :; done",
    ),
    Language(
        "r", "kept <- 20", "cat(kept + 1, '\\n', sep = '')", "cat('hello\\n')",
        "stop('of its own')", "of its own",
        "cat(Sys.getenv('OF_SANDBOX', '-'), ' ', Sys.getenv('OWN', '-'), '\\n', sep = '')",
        "cat(Sys.info()[['user']], ' ', getwd(), '\\n', sep = '')",
        "while (TRUE) {}",
    ),
    Language(
        "java", "int kept = 20;", "System.out.println(kept + 1);", 'System.out.println("hello");',
        'throw new IllegalStateException("of its own");', "of its own",
        # A running Java program cannot change its environment.
        'System.out.println(System.getProperty("OF_SANDBOX", "-") + " " + System.getProperty("OWN", "-"));',
        'System.out.println(System.getProperty("user.name") + " " + System.getProperty("user.dir"));',
        "while (true) {}",
    ),
]


@pytest.fixture(scope="module", params=LANGUAGES, ids=lambda language: language.name)
def language(request: pytest.FixtureRequest) -> Language:
    return request.param


@pytest.fixture(scope="module")
def context(box: Any, language: Language) -> Iterator[Any]:
    made = box.create_code_context(language=language.name, request_timeout=SECONDS)
    yield made
    box.remove_code_context(made)


def printed(box: Any, code: str, **options: Any) -> str:
    execution = box.run_code(code, timeout=SECONDS, **options)
    assert execution.error is None, execution.error
    return "".join(execution.logs.stdout)


def test_what_was_set_is_kept(box, language, context):
    printed(box, language.keep, context=context)
    assert printed(box, language.use, context=context) == "21\n"


def test_a_language_alone_names_the_context(box, language):
    assert printed(box, language.say, language=language.name) == "hello\n"
    printed(box, language.keep, language=language.name)
    assert printed(box, language.use, language=language.name) == "21\n"


def test_an_error_is_told_and_survived(box, language, context):
    error = box.run_code(language.fail, context=context, timeout=SECONDS).error
    assert error is not None
    assert language.failure in f"{error.name} {error.value} {error.traceback}", error
    assert printed(box, language.say, context=context) == "hello\n"


def test_variables_of_the_sandbox_and_of_the_call(box, language, context):
    assert printed(box, language.variables, context=context) == "sandbox -\n"
    hard = "it's \"hard\" \\ é $HOME"
    during = printed(box, language.variables, context=context, envs={"OWN": hard})
    assert during == f"sandbox {hard}\n"
    assert printed(box, language.variables, context=context) == "sandbox -\n"


def test_it_is_root_in_the_users_home(box, language, context):
    assert printed(box, language.place, context=context) == "root /home/user\n"


def test_a_context_has_its_directory(box, language):
    made = box.create_code_context(language=language.name, cwd="/root", request_timeout=SECONDS)
    assert printed(box, language.place, context=made) == "root /root\n"
    box.remove_code_context(made)


def test_a_timeout_interrupts_and_the_context_lives(box, language, context):
    printed(box, language.keep, context=context)
    with pytest.raises(TimeoutException):
        box.run_code(language.endless, context=context, timeout=5)
    assert printed(box, language.use, context=context) == "21\n"


def test_values_and_pictures_of_r(box):
    execution = box.run_code("data.frame(n = c(1, 2))", language="r", timeout=SECONDS)
    assert execution.error is None, execution.error
    assert "<table" in execution.results[0].html
    execution = box.run_code("plot(1:3)", language="r", timeout=SECONDS)
    assert execution.error is None, execution.error
    assert execution.results[0].png.startswith("iVBOR")


def test_the_value_of_a_java_expression(box):
    assert box.run_code("6 * 7", language="java", timeout=SECONDS).text == "42"


def test_packages_of_the_full_edition(box):
    modules = (
        "aiohttp bokeh cv2 docx gensim imageio joblib librosa nltk pytest skimage soundfile spacy "
        "textblob tornado urllib3 xarray xlrd"
    ).split()
    code = f"import importlib.util as u; [m for m in {modules} if u.find_spec(m) is None]"
    assert box.run_code(code).text == "[]"
    for loaded in ("cv2", "librosa", "spacy", "skimage.filters"):
        execution = box.run_code(f"import {loaded}", timeout=SECONDS)
        assert execution.error is None, execution.error


FETCH = """
var connection = (java.net.HttpURLConnection) new java.net.URL("https://first.test/").openConnection();
System.out.println(connection.getResponseCode());
"""
PROGRAM = f"public class Fetch {{ public static void main(String[] a) throws Exception {{ {FETCH} }} }}"


def test_java_trusts_the_site(box):
    assert printed(box, FETCH, language="java") == "200\n"
    # A program of the user's as well, and not without the site's authority.
    box.files.write("/home/user/Fetch.java", PROGRAM)
    run = "java -Djavax.net.ssl.trustStorePassword=changeit"
    assert box.commands.run(f"{run} Fetch.java", timeout=SECONDS).stdout == "200\n"
    script = """
cp /etc/ssl/certs/java/cacerts /tmp/usual
keytool -delete -alias hearth-ca-0 -keystore /tmp/usual -storepass changeit
java -Djavax.net.ssl.trustStore=/tmp/usual Fetch.java 2>&1 | grep -c 'unable to find valid certification path'
"""
    assert box.commands.run(script, timeout=SECONDS).stdout.strip().splitlines()[-1] != "0"
    # The store is whole: the usual authorities and the site's.
    listed = box.commands.run("keytool -list -cacerts -storepass changeit", timeout=SECONDS).stdout
    assert listed.count("trustedCertEntry") > 100 and "hearth-ca-0" in listed
