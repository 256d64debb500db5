"""Plain sentences in the languages and scripts that a `language` rule tells apart, written for scenarios."""

from __future__ import annotations

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "The house that you are looking for is on the other side of the river, and it was not for sale.",
        "This is not what I have in mind, but it will be fine for the guests that you are waiting for.",
    ),
    "de": (
        "Das Haus ist nicht auf der anderen Seite, und die Leute sind mit dem Bus in die Stadt gefahren.",
        "Ich habe mich auf den Weg gemacht, und das ist auch nicht von dem Wetter im Mai abhängig.",
    ),
    "fr": (
        "La maison que vous cherchez est sur une colline, et les clés ne sont pas avec le gardien du village.",
        "Ce qui est dans la boîte est pour les enfants, et vous ne devez pas le dire au voisin.",
    ),
    "es": (
        "La casa está en el valle, pero los niños y las niñas no van por el camino más corto como su padre.",
        "Hay muy pocas flores en el campo, y lo que queda es para una amiga con los ojos claros.",
    ),
    "it": (
        "La casa che cerchi non è una delle più belle, ma gli ospiti sono contenti di stare nella valle con il cane.",
        "Questo è il libro per gli amici, e anche una lettera che non sono riuscito a spedire con il pacco.",
    ),
    "pt": (
        "A casa não é uma das mais bonitas, mas os donos têm tudo como ele quer, e para isso são muito pacientes.",
        "Isso foi dito com calma, e os filhos dos vizinhos não são mais do que uma lembrança para ele.",
    ),
    "nl": (
        "Het huis is niet van de boer, maar hij wordt ook op deze dag door een vriend naar de stad gebracht.",
        "Dat zijn een paar van de dingen die hij nog voor het eten bij zich had, maar ook niet meer.",
    ),
    "pl": (
        "To nie jest dom, który się podoba, ale już przy tym lesie tak jest, że do wody jest blisko dla dzieci.",
        "Czy jego brat jest na polu, nie wiem, ale to się okaże, jak tylko przyjdzie od sąsiada do nas za chwilę.",
    ),
}
"""By language, all in Latin script."""
SCRIPTS: dict[str, tuple[str, ...]] = {
    "cyrillic": (
        "\u0414\u043e\u043c \u0441\u0442\u043e\u0438\u0442 \u043d\u0430 \u0431\u0435\u0440\u0435\u0433\u0443 "
        "\u0440\u0435\u043a\u0438, \u0438 \u0432\u0435\u0447\u0435\u0440\u043e\u043c \u0442\u0430\u043c "
        "\u0442\u0438\u0445\u043e.",
        "\u041c\u044b \u043f\u0440\u0438\u0448\u043b\u0438 \u043f\u043e\u0437\u0434\u043d\u043e, "
        "\u043f\u043e\u0442\u043e\u043c\u0443 \u0447\u0442\u043e \u043f\u043e\u0435\u0437\u0434 "
        "\u043e\u043f\u043e\u0437\u0434\u0430\u043b.",
    ),
    "greek": (
        "\u03a4\u03bf \u03c3\u03c0\u03af\u03c4\u03b9 \u03b5\u03af\u03bd\u03b1\u03b9 "
        "\u03ba\u03bf\u03bd\u03c4\u03ac \u03c3\u03c4\u03b7 \u03b8\u03ac\u03bb\u03b1\u03c3\u03c3\u03b1 "
        "\u03ba\u03b1\u03b9 \u03ad\u03c7\u03b5\u03b9 \u03ba\u03ae\u03c0\u03bf.",
        "\u0389\u03c1\u03b8\u03b1\u03bc\u03b5 \u03b1\u03c1\u03b3\u03ac, \u03b3\u03b9\u03b1\u03c4\u03af "
        "\u03c4\u03bf \u03c4\u03c1\u03ad\u03bd\u03bf \u03b5\u03af\u03c7\u03b5 "
        "\u03ba\u03b1\u03b8\u03c5\u03c3\u03c4\u03ad\u03c1\u03b7\u03c3\u03b7.",
    ),
    "han": (
        "\u8fd9\u5ea7\u623f\u5b50\u5728\u6cb3\u8fb9,\u665a\u4e0a\u975e\u5e38\u5b89\u9759"
        ",\u6211\u4eec\u5e38\u5e38\u53bb\u90a3\u91cc\u6563\u6b65\u3002",
        "\u56e0\u4e3a\u706b\u8f66\u665a\u70b9,\u6240\u4ee5\u6211\u4eec\u5f88\u665a\u624d"
        "\u5230\u8fbe\u90a3\u4e2a\u5c0f\u57ce\u3002",
    ),
}
"""By script: Cyrillic, Greek and Han, as escapes, since many of their letters look like others."""
