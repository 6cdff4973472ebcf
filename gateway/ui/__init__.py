"""The web pages: set up, test and push profiles, and find mail, as a person does it.

The pages are a client of the API inside the process (`http.inside`): what a page shows or does is what the same
question over the wire would, so no page knows more than its reader may. They own sessions, forms and how things look,
and no rule about tenants, profiles or mail.

    visit      one request of a person who is known, and what a page may do with it
    sessions   who is signed in, for how long, and the cookie that says so
    origin     which way of reaching the pages is safe enough for a cookie, and where a form may come from
    forms      a document as fields and back, with each fault beside its field
    rendering  templates, escaped, under one strict content security policy
    assets     what browsers keep: one style, a few scripts; no build step, all of it here
    table      every page, by its path
"""
